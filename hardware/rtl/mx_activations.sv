// The activations' memory: each token's codes, already eight bits wide, four to a word; and their scales. Both come five
// cycles after their addresses. Four packed elements are two, three or four bytes, so unpacking needs no shifter.
module mx_activations
  import mx_types::*;
#(
    parameter int COLUMNS = 2,
    parameter int BLOCKS = 256,
    localparam int PART_BITS = $clog2(BLOCKS) + 3,
    localparam int BLOCK_BITS = $clog2(BLOCKS)
) (
    input  logic clk,
    input  logic compute_clk,  // for reading: the same clock, at rest when nothing is read
    // Writing: bytes of the stream, token by token, elements and then scales.
    input  logic restart,
    input  logic write,
    input  logic [7:0] write_data,
    input  logic [1:0] width,  // as in fields_t
    input  logic [BLOCK_BITS:0] blocks,
    // Reading.
    input  logic part_valid,
    input  logic [PART_BITS-1:0] part_at,
    input  logic [BLOCK_BITS-1:0] scale_at,
    output logic next_valid,
    output logic [COLUMNS-1:0][3:0][7:0] next_code,
    output logic [COLUMNS-1:0][7:0] scale
);
  localparam int TOKEN_BITS = COLUMNS > 1 ? $clog2(COLUMNS) : 1;

  // Collect bytes until they hold four elements.
  logic [TOKEN_BITS-1:0] token;
  logic [PART_BITS:0]    place;  // part or, behind the last part, block of the scale
  logic                  in_scales;
  logic [1:0]            bytes;
  logic [23:0]           collected;
  logic                  part_full, last_part, last_scale;
  logic [31:0]           unpacked;
  assign part_full  = width == 2'd0 ? bytes == 2'd1 : width == 2'd1 ? bytes == 2'd2 : bytes == 2'd3;
  assign last_part  = place + 1'b1 == {blocks, 3'b000};
  assign last_scale = place[BLOCK_BITS:0] + 1'b1 == blocks;
  always_comb begin
    // The newest byte lies highest.
    logic [31:0] whole;
    unique case (width)
      2'd0: begin
        whole = {16'd0, write_data, collected[23:16]};
        for (int i = 0; i < 4; i++) unpacked[8*i+:8] = {4'd0, whole[4*i+:4]};
      end
      2'd1: begin
        whole = {8'd0, write_data, collected[23:8]};
        for (int i = 0; i < 4; i++) unpacked[8*i+:8] = {2'd0, whole[6*i+:6]};
      end
      default: begin
        whole = {write_data, collected};
        unpacked = whole;
      end
    endcase
  end

  logic                  store_part, store_scale;
  logic [31:0]           stored_part;
  logic [7:0]            stored_scale;
  logic [PART_BITS-1:0]  stored_at;
  logic [TOKEN_BITS-1:0] stored_token;
  always_ff @(posedge clk) begin
    store_part   <= write && !in_scales && part_full;
    store_scale  <= write && in_scales;
    stored_part  <= unpacked;
    stored_scale <= write_data;
    stored_at    <= place[PART_BITS-1:0];
    stored_token <= token;
    if (write) begin
      collected <= {write_data, collected[23:8]};
      if (in_scales) begin
        place <= last_scale ? '0 : place + 1'b1;
        if (last_scale) begin
          in_scales <= 1'b0;
          token     <= token + 1'b1;
        end
      end else if (part_full) begin
        bytes     <= 2'd0;
        place     <= last_part ? '0 : place + 1'b1;
        in_scales <= last_part;
      end else bytes <= bytes + 2'd1;
    end
    if (restart) begin
      token     <= '0;
      place     <= '0;
      bytes     <= 2'd0;
      in_scales <= 1'b0;
    end
  end

  mx_delay #(.WIDTH(1), .DEPTH(5)) delay_valid (.clk(compute_clk), .in(part_valid), .out(next_valid));
  for (genvar c = 0; c < COLUMNS; c++) begin : g_column
    logic [31:0] parts[8*BLOCKS];
    logic [7:0]  scales[BLOCKS];
    logic [31:0] part2;
    logic [7:0]  scale2;
    logic [PART_BITS-1:0]  part_at1;
    logic [BLOCK_BITS-1:0] scale_at1;
    mx_copy #(.WIDTH(PART_BITS)) part_copy (.clk(compute_clk), .in(part_at), .out(part_at1));
    mx_copy #(.WIDTH(BLOCK_BITS)) scale_copy (.clk(compute_clk), .in(scale_at), .out(scale_at1));
    always_ff @(posedge clk) begin
      if (store_part && stored_token == c) parts[stored_at] <= stored_part;
      if (store_scale && stored_token == c) scales[stored_at[BLOCK_BITS-1:0]] <= stored_scale;
    end
    always_ff @(posedge compute_clk) begin
      part2  <= parts[part_at1];
      scale2 <= scales[scale_at1];
    end
    mx_delay #(.WIDTH(32), .DEPTH(3)) delay_code (.clk(compute_clk), .in(part2), .out({next_code[c]}));
    mx_delay #(.WIDTH(8), .DEPTH(3)) delay_scale (.clk(compute_clk), .in(scale2), .out(scale[c]));
  end
endmodule
