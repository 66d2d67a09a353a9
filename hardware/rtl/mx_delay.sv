// DEPTH registers in a row.
module mx_delay #(
    parameter int WIDTH = 1,
    parameter int DEPTH = 1
) (
    input  logic             clk,
    input  logic [WIDTH-1:0] in,
    output logic [WIDTH-1:0] out
);
  logic [DEPTH:0][WIDTH-1:0] line;
  assign line[0] = in;
  for (genvar i = 0; i < DEPTH; i++) begin : g_stage
    always_ff @(posedge clk) line[i+1] <= line[i];
  end
  assign out = line[DEPTH];
endmodule
