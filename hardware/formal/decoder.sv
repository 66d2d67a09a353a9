// The claim: whatever codes arrive, one a cycle, three cycles later `mx_decode` gives the element that the OCP
// specification (v1.0, sections 5.3.1 to 5.3.4) says, in units of its format's smallest step. Upper bits of short codes
// may hold anything. The format rests, as it does while a product runs.
module decoder
  import mx_constants::*;
  import mx_types::*;
(
    input logic       clk,
    input logic       start,
    input logic [2:0] any_format,
    input logic [7:0] code
);
  logic       started = 1'b0;
  logic [1:0] age;
  logic [2:0] format;
  always_ff @(posedge clk) begin
    started <= 1'b1;
    if (start) begin
      format <= any_format;
      age    <= 2'd0;
    end else if (age != 2'd3) age <= age + 2'd1;
  end
  always_ff @(posedge clk) assume (started || start);
  always_ff @(posedge clk) assume (any_format < 3'(FORMATS));

  element_t element;
  mx_decode dut (.clk, .fields(fields_of(format)), .code, .element);

  logic [7:0] code1, code2, code3;
  always_ff @(posedge clk) {code3, code2, code1} <= {code2, code1, code};

  // The specification's reading of `code3`, by widths instead of masks.
  logic [7:0]  bits, exponent, mantissa, fraction, full_exponent;
  logic        negative, integer_, infinite, not_a_number;
  logic [33:0] magnitude, found;
  always_comb begin
    bits          = code3 & 8'((9'd1 << FORMAT_BITS[format]) - 9'd1);
    integer_      = FORMAT_EXPONENT_BITS[format] == 0;
    negative      = bits[FORMAT_BITS[format]-1];
    fraction      = 8'((9'd1 << FORMAT_MANTISSA_BITS[format]) - 9'd1);
    full_exponent = 8'((9'd1 << FORMAT_EXPONENT_BITS[format]) - 9'd1);
    mantissa      = bits & fraction;
    exponent      = (bits >> FORMAT_MANTISSA_BITS[format]) & full_exponent;
    infinite      = FORMAT_HAS_INFINITY[format] && exponent == full_exponent && mantissa == 0;
    not_a_number  = FORMAT_HAS_NAN[format] && exponent == full_exponent
                  && (FORMAT_HAS_INFINITY[format] ? mantissa != 0 : mantissa == fraction);
    if (integer_) magnitude = 34'(negative ? 9'd256 - 9'(code3) : 9'(code3));
    else if (exponent == 0) magnitude = 34'(mantissa);
    else magnitude = 34'(mantissa + fraction + 8'd1) << (exponent - 8'd1);
    found = element.high ? {element.magnitude, 16'd0} : 34'(element.magnitude);
  end

  logic judged;
  assign judged = started && format < 3'(FORMATS) && age == 2'd3;
  always_ff @(posedge clk) begin
    if (judged) begin
      its_nan      : assert ((element.kind == NOT_A_NUMBER) == not_a_number);
      its_infinity : assert ((element.kind == INFINITE) == infinite);
      its_sign     : assert (element.negative == negative);
      if (!infinite && !not_a_number) begin
        its_magnitude  : assert (found == magnitude);
        its_zero       : assert ((element.kind == ZERO) == (magnitude == 0));
        only_two_digit : assert (!element.high || FORMAT_TWO_DIGITS[format]);
      end
    end
    of_two_digits : cover (judged && element.high && element.negative);
    not_a_code    : cover (judged && not_a_number);
    i_format : assert (!started || format < 3'(FORMATS));
  end
endmodule
