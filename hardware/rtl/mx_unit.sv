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

  turn_t turn0, turn17, turn25;
  assign turn0 = '{
      valid: step.valid & step.last_pass,
      first_block: step.first_block,
      last_block: step.last_block,
      turn: step.turn
  };
  mx_delay #(.WIDTH($bits(turn_t)), .DEPTH(ROUNDED)) delay_rounded (.clk, .in(turn0), .out({turn17}));
  mx_delay #(.WIDTH($bits(turn_t)), .DEPTH(ADDED - ROUNDED)) delay_added (.clk, .in(turn17), .out({turn25}));

  // A turn that comes again after eight cycles finds its sum on the adder's output, a later one in the memory.
  logic [31:0] accumulator[8];
  logic [31:0] so_far, added;
  always_comb begin
    if (turn17.first_block) so_far = '0;
    else if (turn25.valid && turn25.turn == turn17.turn) so_far = added;
    else so_far = accumulator[turn17.turn];
  end
  mx_add add (.clk, .a(so_far), .b(value), .sum(added));
  always_ff @(posedge clk) if (turn25.valid) accumulator[turn25.turn] <= added;
  assign result = added;
  assign result_valid = turn25.valid & turn25.last_block;
endmodule
