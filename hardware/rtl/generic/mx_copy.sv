// A register of one's own: a leaf, because synthesis tools merge registers that hold the same, and then one of them has to
// reach across the chip.
module mx_copy #(
    parameter int WIDTH = 1
) (
    input  logic             clk,
    input  logic [WIDTH-1:0] in,
    output logic [WIDTH-1:0] out
);
  always_ff @(posedge clk) out <= in;
endmodule
