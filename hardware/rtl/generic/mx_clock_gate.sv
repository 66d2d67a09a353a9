// The clock while `enable`, else low. A leaf: in simulation it makes an idle tile cost nothing.
module mx_clock_gate (
    input  logic clk,
    input  logic enable,
    output logic gated
);
  logic open;
  always_latch if (!clk) open = enable;
  assign gated = clk & open;
endmodule
