// The exact sum of LANES signed products, $clog2(LANES) cycles. Signs are put off: each addition adds or subtracts its
// second operand and hands the sign of its first one on, which costs nothing in a carry chain. The true sum is
// (-1)**negative * sum.
module mx_sum #(
    parameter int LANES = 32,
    parameter int WIDTH = 36,
    localparam int LEVELS = $clog2(LANES),
    localparam int OUT = WIDTH + 1 + LEVELS
) (
    input  logic                     clk,
    input  logic [LANES-1:0][WIDTH-1:0] product,
    input  logic [LANES-1:0]         negative,
    output logic signed [OUT-1:0]    sum,
    output logic                     sum_negative
);
  for (genvar level = 0; level <= LEVELS; level++) begin : g_level
    localparam int COUNT = LANES >> level;
    localparam int W = WIDTH + 1 + level;
    logic signed [COUNT-1:0][W-1:0] value;
    logic [COUNT-1:0]               sign;
    if (level == 0) begin : g_in
      for (genvar i = 0; i < COUNT; i++) begin : g_widen
        assign value[i] = {1'b0, product[i]};
      end
      assign sign = negative;
    end else begin : g_add
      for (genvar i = 0; i < COUNT; i++) begin : g_pair
        logic signed [W-2:0] a, b;
        logic [W-1:0]        added;
        logic                subtract;
        assign a = g_level[level-1].value[2*i];
        assign b = g_level[level-1].value[2*i+1];
        assign subtract = g_level[level-1].sign[2*i] ^ g_level[level-1].sign[2*i+1];
        mx_add_subtract #(.WIDTH(W)) add (.a(W'(a)), .b(W'(b)), .subtract, .result(added));
        always_ff @(posedge clk) begin
          value[i] <= added;
          sign[i]  <= g_level[level-1].sign[2*i];
        end
      end
    end
  end
  assign sum = g_level[LEVELS].value[0];
  assign sum_negative = g_level[LEVELS].sign[0];
endmodule
