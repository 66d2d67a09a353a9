// (-1)**negative * magnitude * 2**(exponent - 196) to float32: to nearest, ties to even, gradual underflow; seven cycles.
//
// `exponent` is the biased exponent that the result would have if bit 69 of the magnitude were its leading one.
module mx_round
  import mx_types::*;
  import mx_constants::NAN_BITS;
(
    input  logic               clk,
    input  logic [69:0]        magnitude,
    input  logic               negative,
    input  logic signed [10:0] exponent,
    input  logic               is_nan,
    input  logic               is_infinite,  // its sign is `negative`
    output logic [31:0]        value
);
  typedef struct packed {
    logic               negative;
    logic               is_nan;
    logic               is_infinite;
    logic signed [10:0] exponent;
  } side_t;
  side_t s1, s2, s3, s4, s5, s6;

  // 1: which groups of 16 bits hold ones. The top group is filled up with zeros: bit 79 is the leading position.
  logic [79:0] wide, m1;
  logic [4:0]  any1;
  assign wide = {10'd0, magnitude};
  always_ff @(posedge clk) begin
    m1 <= wide;
    for (int i = 0; i < 5; i++) any1[i] <= |wide[16*i+:16];
    s1 <= '{negative: negative, is_nan: is_nan, is_infinite: is_infinite, exponent: exponent + 11'sd10};
  end

  // 2: shift by whole groups; keep 42 bits, the rest only matters as "not zero".
  logic [41:0] m2;
  logic        sticky2;
  always_ff @(posedge clk) begin
    s2 <= s1;
    unique casez (any1)
      5'b1????: begin m2 <= m1[79:38]; sticky2 <= |m1[37:32] | any1[1] | any1[0]; end
      5'b01???: begin m2 <= m1[63:22]; sticky2 <= |m1[21:16] | any1[0]; s2.exponent <= s1.exponent - 11'sd16; end
      5'b001??: begin m2 <= m1[47:6]; sticky2 <= |m1[5:0]; s2.exponent <= s1.exponent - 11'sd32; end
      5'b0001?: begin m2 <= {m1[31:0], 10'd0}; sticky2 <= 1'b0; s2.exponent <= s1.exponent - 11'sd48; end
      default: begin m2 <= {m1[15:0], 26'd0}; sticky2 <= 1'b0; s2.exponent <= s1.exponent - 11'sd64; end
    endcase
  end

  // 3: shift by nibbles; keep 30 bits.
  logic [29:0] m3;
  logic        sticky3;
  always_ff @(posedge clk) begin
    s3 <= s2;
    if (|m2[41:38]) begin m3 <= m2[41:12]; sticky3 <= sticky2 | (|m2[11:0]); end
    else if (|m2[37:34]) begin m3 <= m2[37:8]; sticky3 <= sticky2 | (|m2[7:0]); s3.exponent <= s2.exponent - 11'sd4; end
    else if (|m2[33:30]) begin m3 <= m2[33:4]; sticky3 <= sticky2 | (|m2[3:0]); s3.exponent <= s2.exponent - 11'sd8; end
    else begin m3 <= m2[29:0]; sticky3 <= sticky2; s3.exponent <= s2.exponent - 11'sd12; end
  end

  // 4: shift by bits; keep 24 bits, a guard and a sticky bit.
  logic [25:0] m4;
  always_ff @(posedge clk) begin
    s4 <= s3;
    if (m3[29]) m4 <= {m3[29:5], sticky3 | (|m3[4:0])};
    else if (m3[28]) begin m4 <= {m3[28:4], sticky3 | (|m3[3:0])}; s4.exponent <= s3.exponent - 11'sd1; end
    else if (m3[27]) begin m4 <= {m3[27:3], sticky3 | (|m3[2:0])}; s4.exponent <= s3.exponent - 11'sd2; end
    else begin m4 <= {m3[26:2], sticky3 | (|m3[1:0])}; s4.exponent <= s3.exponent - 11'sd3; end
  end

  // 5: a result with an exponent below 1 is subnormal and loses 1 - exponent bits more; 26 places leave nothing but
  // the sticky bit. No leading one at all: zero, which goes the same way.
  logic signed [10:0] below;
  logic [4:0]         down5;
  logic [25:0]        m5;
  assign below = 11'sd1 - s4.exponent;
  always_ff @(posedge clk) begin
    s5 <= s4;
    m5 <= m4;
    if (s4.exponent < 11'sd1 || !m4[25]) s5.exponent <= 11'sd0;
    if (below[10]) down5 <= 5'd0;
    else if (|below[9:5] || below[4:0] > 5'd26) down5 <= 5'd26;
    else down5 <= below[4:0];
  end

  // 6: the shift.
  logic [25:0] m6;
  logic [51:0] shifted;
  assign shifted = {m5, 26'd0} >> down5;
  always_ff @(posedge clk) begin
    s6 <= s5;
    m6 <= {shifted[51:27], |shifted[26:0]};
  end

  // 7: round; a carry runs into the exponent, from subnormal to normal and from the largest number to infinity.
  logic [32:0] rounded;
  assign rounded = {s6.exponent[9:0], m6[24:2]} + {32'd0, m6[1] & (m6[0] | m6[2])};
  always_ff @(posedge clk) begin
    if (s6.is_nan) value <= NAN_BITS;
    else if (s6.is_infinite || (|rounded[32:31]) || (&rounded[30:23])) value <= {s6.negative, 8'hff, 23'd0};
    else value <= {s6.negative, rounded[30:0]};
  end
endmodule
