// A register of one's own: as ECP5 cells, which yosys leaves apart where it would merge registers that hold the same.
module mx_copy #(
    parameter int WIDTH = 1
) (
    input  logic             clk,
    input  logic [WIDTH-1:0] in,
    output logic [WIDTH-1:0] out
);
  for (genvar i = 0; i < WIDTH; i++) begin : g_bit
    TRELLIS_FF #(
        .GSR("DISABLED"), .CEMUX("1"), .CLKMUX("CLK"), .LSRMUX("LSR"), .REGSET("RESET")
    ) register (
        .CLK(clk), .LSR(1'b0), .DI(in[i]), .Q(out[i])
    );
  end
endmodule
