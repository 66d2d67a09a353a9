// A dot unit with its rounding and its eight float32 accumulators, one per turn. The same turn may come again eight
// cycles later, not sooner.
module mx_unit
  import mx_types::*;
#(
    parameter int LANES = 32
) (
    input  logic               clk,
    input  step_t              step,
    input  element_t           w[LANES],
    input  element_t           x[LANES],
    input  logic signed [10:0] exponent,     // as mx_round takes it, with the elements
    input  logic               scale_is_nan,
    output logic               result_valid,
    output logic [31:0]        result
);
  // Cycles after the elements: the block's sum stands in `magnitude`; the rounded sum in `value`; the new accumulator.
  localparam int SUMMED = 10, ROUNDED = 17, ADDED = 25;

  logic [69:0] magnitude;
  logic        negative, is_nan, is_infinite;
  mx_dot #(.LANES(LANES)) dot (.clk, .step, .w, .x, .magnitude, .negative, .is_nan, .is_infinite);

  logic signed [10:0] exponent10;
  logic               scale_is_nan10;
  mx_delay #(.WIDTH(12), .DEPTH(SUMMED)) delay_exponent (
      .clk, .in({exponent, scale_is_nan}), .out({exponent10, scale_is_nan10})
  );
  logic [31:0] value;
  mx_round round (
      .clk, .magnitude, .negative, .exponent(exponent10), .is_nan(is_nan | scale_is_nan10), .is_infinite, .value
  );

  turn_t turn0, turn16, turn17, turn24, turn25;
  assign turn0 = '{
      valid: step.valid & step.last_pass,
      first_block: step.first_block,
      last_block: step.last_block,
      turn: step.turn
  };
  mx_delay #(.WIDTH($bits(turn_t)), .DEPTH(ROUNDED - 1)) delay_rounded (.clk, .in(turn0), .out({turn16}));
  mx_delay #(.WIDTH($bits(turn_t)), .DEPTH(ADDED - ROUNDED - 1)) delay_added (.clk, .in(turn17), .out({turn24}));
  always_ff @(posedge clk) begin
    turn17 <= turn16;
    turn25 <= turn24;
  end

  // The sum so far is chosen a cycle ahead of the adder. A turn that comes again after eight cycles finds its sum on the
  // adder's output, after nine there a cycle ahead, a later one in the memory; a row's first block starts at zero.
  logic [31:0] accumulator[8];
  logic [31:0] kept17, so_far, added;
  logic        fresh17;
  always_ff @(posedge clk) begin
    if (turn16.first_block) kept17 <= '0;
    else if (turn25.valid && turn25.turn == turn16.turn) kept17 <= added;
    else kept17 <= accumulator[turn16.turn];
    fresh17 <= !turn16.first_block && turn24.valid && turn24.turn == turn16.turn;
  end
  assign so_far = fresh17 ? added : kept17;
  mx_add add (.clk, .a(so_far), .b(value), .sum(added));
  always_ff @(posedge clk) if (turn25.valid) accumulator[turn25.turn] <= added;
  assign result = added;
  assign result_valid = turn25.valid & turn25.last_block;
endmodule
