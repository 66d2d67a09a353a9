// The weight memories and the way out of them: packed elements of ROWS rows at a time become codes of eight bits.
//
// An element word is four granules of 8 * ROWS bytes; a step takes two, three or four of them, for elements of 4, 6 or 8
// bits. `start` says where in {newest word, word before} they begin. Codes and scales come three cycles after `read`.
module mx_weights
  import mx_types::*;
#(
    parameter int ROWS = 2,
    parameter int LANES = 32,
    parameter int WORDS = 1024,
    localparam int ELEMENT_BITS = $clog2(WORDS),
    localparam int SCALES = 2 * WORDS,
    localparam int SCALE_BITS = $clog2(SCALES),
    localparam int BANKS = 4 * ROWS
) (
    input  logic clk,
    input  logic compute_clk,  // for reading: the same clock, at rest when nothing is read
    // Writing: 64 bits of elements at a time, or a scale.
    input  logic write_elements,
    input  logic [ELEMENT_BITS+$clog2(BANKS)-1:0] write_element_at,
    input  logic [63:0] write_element,
    input  logic write_scales,
    input  logic [SCALE_BITS+$clog2(ROWS)-1:0] write_scale_at,
    input  logic [7:0] write_scale,
    // Reading.
    input  logic [1:0] width,  // as in fields_t
    input  logic read,
    input  logic [ELEMENT_BITS-1:0] read_at,
    input  logic [SCALE_BITS-1:0] scale_at,
    input  logic [2:0] start,
    output logic [ROWS-1:0][LANES-1:0][7:0] code,
    output logic [ROWS-1:0][7:0] scale
);
  logic [BANKS-1:0][63:0] newest, older, fetched;
  for (genvar b = 0; b < BANKS; b++) begin : g_bank
    logic [63:0] memory[WORDS];
    logic [63:0] word1;
    logic        mine;
    assign mine = write_element_at[$clog2(BANKS)-1:0] == b;
    always_ff @(posedge clk) begin
      if (write_elements && mine) memory[write_element_at[$clog2(BANKS)+:ELEMENT_BITS]] <= write_element;
    end
    always_ff @(posedge compute_clk) begin
      word1      <= memory[read_at];
      fetched[b] <= word1;
    end
  end

  logic [2:0] start1, start2, start3;
  logic       read1, read2;
  always_ff @(posedge compute_clk) begin
    {read1, start1} <= {read, start};
    {read2, start2} <= {read1, start1};
    start3 <= start2;
    if (read2) begin
      newest <= fetched;
      older  <= newest;
    end
  end

  // A granule holds ROWS * 64 bits, and a step's granules hold its rows one after the other.
  localparam int GRANULE = 64 * ROWS;
  logic [8*GRANULE-1:0] both;
  logic [2*GRANULE-1:0] four;
  logic [3*GRANULE-1:0] six;
  assign both = {newest, older};
  assign four = start3[1] ? both[6*GRANULE+:2*GRANULE] : both[4*GRANULE+:2*GRANULE];
  always_comb begin
    unique case (start3[1:0])
      2'd0: six = both[4*GRANULE+:3*GRANULE];
      2'd1: six = both[5*GRANULE+:3*GRANULE];
      2'd2: six = both[2*GRANULE+:3*GRANULE];
      2'd3: six = both[3*GRANULE+:3*GRANULE];
    endcase
  end
  for (genvar r = 0; r < ROWS; r++) begin : g_row
    for (genvar i = 0; i < LANES; i++) begin : g_lane
      always_comb begin
        unique case (width)
          2'd0:    code[r][i] = {4'd0, four[(r*LANES+i)*4+:4]};
          2'd1:    code[r][i] = {2'd0, six[(r*LANES+i)*6+:6]};
          default: code[r][i] = newest[(r*LANES+i)/8][((r*LANES+i)%8)*8+:8];
        endcase
      end
    end
  end

  for (genvar r = 0; r < ROWS; r++) begin : g_scale
    logic [7:0] memory[SCALES];
    logic [7:0] scale1, scale2;
    logic       mine;
    assign mine = (32'(write_scale_at) & 32'(ROWS - 1)) == r;
    always_ff @(posedge clk) begin
      if (write_scales && mine) memory[write_scale_at[$clog2(ROWS)+:SCALE_BITS]] <= write_scale;
    end
    always_ff @(posedge compute_clk) begin
      scale1   <= memory[scale_at];
      scale2   <= scale1;
      scale[r] <= scale2;
    end
  end
endmodule
