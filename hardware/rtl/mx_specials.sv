// Infinite and NaN products of a block by IEEE 754, four cycles: inf * 0 is NaN. A block with infinities of both signs
// is NaN too.
module mx_specials
  import mx_types::*;
#(
    parameter int LANES = 32
) (
    input  logic     clk,
    input  element_t w[LANES],
    input  element_t x[LANES],
    output logic     is_nan,
    output logic     is_infinite,
    output logic     negative
);
  logic [LANES-1:0] nan1, infinite1, minus1;
  always_ff @(posedge clk) begin
    for (int i = 0; i < LANES; i++) begin
      infinite1[i] <= w[i].kind == INFINITE || x[i].kind == INFINITE;
      nan1[i] <= w[i].kind == NOT_A_NUMBER || x[i].kind == NOT_A_NUMBER ||
                 (w[i].kind == INFINITE && x[i].kind == ZERO) || (w[i].kind == ZERO && x[i].kind == INFINITE);
      minus1[i] <= w[i].negative ^ x[i].negative;
    end
  end

  logic [LANES/8-1:0] nan2, plus2, minus2;
  always_ff @(posedge clk) begin
    for (int i = 0; i < LANES / 8; i++) begin
      nan2[i]   <= |nan1[8*i+:8];
      plus2[i]  <= |(infinite1[8*i+:8] & ~minus1[8*i+:8]);
      minus2[i] <= |(infinite1[8*i+:8] & minus1[8*i+:8]);
    end
  end

  logic nan3, plus3, minus3;
  always_ff @(posedge clk) begin
    nan3   <= |nan2;
    plus3  <= |plus2;
    minus3 <= |minus2;
    is_nan      <= nan3 || (plus3 && minus3);
    is_infinite <= plus3 || minus3;
    negative    <= minus3;
  end
endmodule
