// a + b, or a - b, in one ECP5 carry chain of WIDTH + 1 bits: its lookup tables negate b on the way, and the first of
// them makes the carry.
module mx_add_subtract #(
    parameter int WIDTH = 8
) (
    input  logic [WIDTH-1:0] a,
    input  logic [WIDTH-1:0] b,
    input  logic             subtract,
    output logic [WIDTH-1:0] result
);
  localparam int PAIRS = (WIDTH + 2) / 2;
  // Propagate: a ^ b ^ subtract where d is 1. Generate: a.
  localparam logic [15:0] ADD = 16'h96aa;
  // Propagate: never. Generate: a, here the carry to start with.
  localparam logic [15:0] START = 16'h00aa;
  logic [2*PAIRS-1:0] x, y, sum;
  logic [PAIRS:0]     carry;
  assign x = (2 * PAIRS)'({a, subtract});
  assign y = (2 * PAIRS)'({b, 1'b0});
  assign carry[0] = 1'b0;
  for (genvar i = 0; i < PAIRS; i++) begin : g_pair
    CCU2C #(
        .INIT0(i == 0 ? START : ADD), .INIT1(ADD), .INJECT1_0("NO"), .INJECT1_1("NO")
    ) pair (
        .CIN(carry[i]), .COUT(carry[i+1]),
        .A0(x[2*i]), .B0(y[2*i]), .C0(subtract), .D0(1'b1), .S0(sum[2*i]),
        .A1(x[2*i+1]), .B1(y[2*i+1]), .C1(subtract), .D1(1'b1), .S1(sum[2*i+1])
    );
  end
  assign result = sum[WIDTH:1];
endmodule
