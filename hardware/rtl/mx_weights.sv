// The weight memories and the way out of them: packed elements of ROWS rows at a time become codes of eight bits.
//
// An element word is four granules of 8 * ROWS bytes; a step takes two, three or four of them, for elements of 4, 6 or 8
// bits. `start` says where in {newest word, word before} they begin. Codes and scales come five cycles after `read`.
//
// Block RAM lies in a few columns across the chip: each bank has its own copies of address, data and enable beside it, and
// each group of lanes its own of what chooses granules.
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
  logic [2:0] start1, start2, start3;
  logic       read1, read2;
  always_ff @(posedge compute_clk) begin
    {read1, start1} <= {read, start};
    {read2, start2} <= {read1, start1};
    start3 <= start2;
  end

  logic [BANKS-1:0][63:0] newest, older;
  for (genvar b = 0; b < BANKS; b++) begin : g_bank
    logic [63:0]             memory[WORDS];
    logic                    put;
    logic [ELEMENT_BITS-1:0] put_at, read_at1;
    logic [63:0]             element, word2, fetched;
    logic                    read3;
    mx_copy #(.WIDTH(1 + ELEMENT_BITS + 64)) write_copy (
        .clk,
        .in({write_elements && write_element_at[$clog2(BANKS)-1:0] == b,
             write_element_at[$clog2(BANKS)+:ELEMENT_BITS], write_element}),
        .out({put, put_at, element})
    );
    mx_copy #(.WIDTH(ELEMENT_BITS)) address_copy (.clk(compute_clk), .in(read_at), .out(read_at1));
    mx_copy #(.WIDTH(1)) read_copy (.clk(compute_clk), .in(read2), .out(read3));
    always_ff @(posedge clk) if (put) memory[put_at] <= element;
    always_ff @(posedge compute_clk) begin
      word2   <= memory[read_at1];
      fetched <= word2;
      if (read3) begin
        newest[b] <= fetched;
        older[b]  <= newest[b];
      end
    end
  end

  // A granule holds ROWS * 64 bits, and a step's granules hold its rows one after the other.
  localparam int GRANULE = 64 * ROWS;
  localparam int NEAR = 8;  // lanes that share a copy of what chooses
  logic [8*GRANULE-1:0] both;
  assign both = {newest, older};
  for (genvar r = 0; r < ROWS; r++) begin : g_row
    for (genvar g = 0; g < LANES / NEAR; g++) begin : g_near
      logic [2:0] start4;
      logic [1:0] width_here;
      mx_copy #(.WIDTH(3)) start_copy (.clk(compute_clk), .in(start3), .out(start4));
      mx_copy #(.WIDTH(2)) width_copy (.clk, .in(width), .out(width_here));
      for (genvar i = g * NEAR; i < (g + 1) * NEAR; i++) begin : g_lane
        localparam int AT = r * LANES + i;  // the element's place in its step
        logic [3:0] four;
        logic [5:0] six;
        always_comb begin
          four = start4[1] ? both[6*GRANULE+4*AT+:4] : both[4*GRANULE+4*AT+:4];
          unique case (start4[1:0])
            2'd0: six = both[4*GRANULE+6*AT+:6];
            2'd1: six = both[5*GRANULE+6*AT+:6];
            2'd2: six = both[2*GRANULE+6*AT+:6];
            2'd3: six = both[3*GRANULE+6*AT+:6];
          endcase
        end
        always_ff @(posedge compute_clk) begin
          unique case (width_here)
            2'd0:    code[r][i] <= {4'd0, four};
            2'd1:    code[r][i] <= {2'd0, six};
            default: code[r][i] <= newest[AT/8][(AT%8)*8+:8];
          endcase
        end
      end
    end
  end

  for (genvar r = 0; r < ROWS; r++) begin : g_scale
    logic [7:0] memory[SCALES];
    logic [7:0] put_scale, scale2, scale3, scale4;
    logic       put;
    logic [SCALE_BITS-1:0] put_at, scale_at1;
    mx_copy #(.WIDTH(1 + SCALE_BITS + 8)) write_copy (
        .clk,
        .in({write_scales && (32'(write_scale_at) & 32'(ROWS - 1)) == r, write_scale_at[$clog2(ROWS)+:SCALE_BITS], write_scale}),
        .out({put, put_at, put_scale})
    );
    mx_copy #(.WIDTH(SCALE_BITS)) address_copy (.clk(compute_clk), .in(scale_at), .out(scale_at1));
    always_ff @(posedge clk) if (put) memory[put_at] <= put_scale;
    always_ff @(posedge compute_clk) begin
      scale2   <= memory[scale_at1];
      scale3   <= scale2;
      scale4   <= scale3;
      scale[r] <= scale4;
    end
  end
endmodule
