// Where the rows of a RUN begin: the group's number times what a group takes, added to where the weight begins. A
// multiplication bit by bit: the DSP blocks are the tile's.
module mx_address
  import mx_constants::*;
#(
    parameter int ELEMENT_BITS = 10,
    parameter int SCALE_BITS = 11,
    parameter int BLOCK_BITS = 8
) (
    input  logic                    clk,
    input  logic                    start,
    input  logic [2:0]              format,
    input  logic [BLOCK_BITS:0]     blocks,
    input  logic [15:0]             first_group,
    input  logic [ELEMENT_BITS-1:0] weight_word,
    input  logic [SCALE_BITS-1:0]   weight_scale,
    output logic                    done,          // the inputs stay until then
    output logic [ELEMENT_BITS-1:0] word,          // a cycle after `done`
    output logic [SCALE_BITS-1:0]   scale
);
  // Places beyond the memories' addresses do not matter.
  logic [SCALE_BITS-1:0] product, multiplicand;
  logic [15:0]           multiplier;
  assign done = multiplier == 0 && !start;
  always_ff @(posedge clk) begin
    if (start) begin
      product      <= '0;
      multiplier   <= first_group;
      multiplicand <= SCALE_BITS'(blocks);
    end else if (!done) begin
      if (multiplier[0]) product <= product + multiplicand;
      multiplier   <= multiplier >> 1;
      multiplicand <= multiplicand << 1;
    end
    // A block of a group is GROUP steps of 2, 3 or 4 granules: 4, 6 or 8 words.
    word  <= weight_word + ELEMENT_BITS'(FORMAT_BITS[format] == 4 ? product << 2
             : FORMAT_BITS[format] == 6 ? (product << 2) + (product << 1) : product << 3);
    scale <= weight_scale + SCALE_BITS'(product << 3);
  end
endmodule
