// One element: code in, sign and integer magnitude out, two cycles later.
module mx_decode
  import mx_types::*;
(
    input  logic       clk,
    input  fields_t    fields,
    input  logic [7:0] code,
    output element_t   element
);
  // First cycle: cut the code into significand and shift.
  logic [4:0] exponent, shift;
  logic       hidden;
  logic [3:0] significand;
  logic       negative;
  kind_t      kind;
  logic [7:0] absolute;
  mx_add_subtract #(.WIDTH(8)) negate (.a('0), .b(code), .subtract(code[7]), .result(absolute));

  always_comb begin
    unique case (fields.mantissa)
      2'd3:    exponent = {1'b0, code[6:3]} & fields.exponent_mask;
      2'd2:    exponent = code[6:2] & fields.exponent_mask;
      default: exponent = code[5:1] & fields.exponent_mask;
    endcase
    unique case (fields.width)
      2'd0:    negative = code[3];
      2'd1:    negative = code[5];
      default: negative = code[7];
    endcase
    hidden = exponent != 0;
    unique case (fields.mantissa)
      2'd3:    significand = {hidden, code[2:0]};
      2'd2:    significand = {1'b0, hidden, code[1:0]};
      default: significand = {2'b00, hidden, code[0]};
    endcase
    // exponent - 1, and 0 for subnormals; in two parts, so that no carry chain is built for five bits.
    shift[3:0] = hidden ? exponent[3:0] - 4'd1 : 4'd0;
    shift[4]   = exponent[4] & (|exponent[3:0]);

    if (fields.integer_) kind = code == 0 ? ZERO : NUMBER;
    else if (fields.infinities && exponent == 5'h1f) kind = code[1:0] == 0 ? INFINITE : NOT_A_NUMBER;
    else if (fields.nan && code[6:0] == 7'h7f) kind = NOT_A_NUMBER;
    else kind = significand == 0 ? ZERO : NUMBER;
  end

  logic [3:0] significand_q, shift_q;
  logic       negative_q, high_q;
  kind_t      kind_q;
  logic [7:0] absolute_q;

  always_ff @(posedge clk) begin
    shift_q       <= shift[3:0];
    negative_q    <= negative;
    kind_q        <= kind;
    significand_q <= significand;
    absolute_q    <= absolute;
    high_q        <= shift[4];
    if (fields.integer_) begin
      significand_q <= '0;
      high_q        <= 1'b0;
    end else absolute_q <= '0;
  end

  // Second cycle: shift, first by up to three places, then by fours: each place then has two sources at most. A
  // magnitude lies in one digit alone: bit 4 of the shift says in which.
  logic [6:0]  fine;
  logic [17:0] shifted;
  assign fine    = 7'(significand_q) << shift_q[1:0];
  assign shifted = 18'(fine) << {shift_q[3:2], 2'b00};
  always_ff @(posedge clk) begin
    element.negative  <= negative_q;
    element.high      <= high_q;
    element.kind      <= kind_q;
    element.magnitude <= shifted | 18'(absolute_q);
  end
endmodule
