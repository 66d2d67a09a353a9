// One element: code in, sign and integer magnitude out, three cycles later.
module mx_decode
  import mx_types::*;
(
    input  logic       clk,
    input  fields_t    fields,
    input  logic [7:0] code,
    output element_t   element
);
  // 1: cut the code into fields. Integers have none: their absolute value goes its own way.
  logic [7:0] absolute, absolute1;
  logic [4:0] exponent1;
  logic [2:0] mantissa1;
  logic       negative1;
  mx_add_subtract #(.WIDTH(8)) negate (.a('0), .b(code), .subtract(code[7]), .result(absolute));
  always_ff @(posedge clk) begin
    absolute1 <= absolute;
    // The mask leaves the exponent's upper bits to formats with two or three mantissa bits.
    exponent1[1:0] <= fields.mantissa3 ? code[4:3] : fields.mantissa2 ? code[3:2] : code[2:1];
    exponent1[4:2] <= (fields.mantissa3 ? {1'b0, code[6:5]} : code[6:4]) & fields.exponent_mask;
    mantissa1[0]   <= code[0];
    mantissa1[1]   <= code[1] & (fields.mantissa3 | fields.mantissa2);
    mantissa1[2]   <= code[2] & fields.mantissa3;
    negative1      <= fields.width[1] ? code[7] : fields.width[0] ? code[5] : code[3];
    if (fields.integer_) begin
      exponent1 <= '0;
      mantissa1 <= '0;
    end else absolute1 <= '0;
  end

  // 2: significand and shift, and what is no number.
  logic       hidden;
  logic [7:0] absolute2;
  logic [3:0] significand2, shift2;
  logic       negative2, high2;
  kind_t      kind2;
  assign hidden = exponent1 != 0;
  always_ff @(posedge clk) begin
    absolute2       <= absolute1;
    negative2       <= negative1;
    significand2[0] <= mantissa1[0];
    significand2[1] <= mantissa1[1] | (hidden & !fields.mantissa2 & !fields.mantissa3);
    significand2[2] <= mantissa1[2] | (hidden & fields.mantissa2);
    significand2[3] <= hidden & fields.mantissa3;
    // exponent - 1, and 0 for subnormals. In two parts, so that no carry chain is built for five bits.
    shift2 <= hidden ? exponent1[3:0] - 4'd1 : 4'd0;
    high2  <= exponent1[4] & (|exponent1[3:0]);
    if (fields.infinities && (&exponent1)) kind2 <= mantissa1[1:0] == 0 ? INFINITE : NOT_A_NUMBER;
    else if (fields.nan && (&exponent1[3:0]) && (&mantissa1)) kind2 <= NOT_A_NUMBER;
    else kind2 <= (hidden || mantissa1 != 0 || absolute1 != 0) ? NUMBER : ZERO;
  end

  // 3: shift, first by up to three places, then by fours: each place then has two sources at most. A magnitude lies in
  // one digit alone: bit 4 of the shift says in which.
  logic [6:0]  fine;
  logic [17:0] shifted;
  assign fine    = 7'(significand2) << shift2[1:0];
  assign shifted = 18'(fine) << {shift2[3:2], 2'b00};
  always_ff @(posedge clk) begin
    element.negative  <= negative2;
    element.high      <= high2;
    element.kind      <= kind2;
    element.magnitude <= shifted | 18'(absolute2);
  end
endmodule
