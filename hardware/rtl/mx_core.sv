// The whole board behind a stream of bytes each way, with valid and ready.
module mx_core
  import mx_types::*;
  import mx_constants::*;
#(
    parameter int ROWS = 2,
    parameter int COLUMNS = 2,
    parameter int WORDS = 1024,  // of the element memory, 32 * ROWS bytes each; the scale memory has 2 * ROWS * WORDS bytes
    parameter int BLOCKS = 256,  // in a row at most
    parameter int HANDLES = 16,
    parameter int CLOCK_HZ = 100_000_000,
    parameter logic [127:0] NAME = "core"
) (
    input  logic       clk,
    input  logic       reset,
    input  logic       in_valid,
    output logic       in_ready,
    input  logic [7:0] in_data,
    output logic       out_valid,
    input  logic       out_ready,
    output logic [7:0] out_data,
    output logic       idle,      // nothing to do until the next byte
    input  logic [1:0]  energy_source,
    input  logic [7:0]  energy_scope,
    input  logic [31:0] energy_samples,
    input  logic [63:0] energy_microjoules,
    input  logic [63:0] energy_nanoseconds
);
  localparam int LANES = 32, GROUP = 8;
  localparam int ELEMENT_BITS = $clog2(WORDS), SCALE_BITS = ELEMENT_BITS + 1, BLOCK_BITS = $clog2(BLOCKS);
  localparam int ROW_SHIFT = $clog2(ROWS);

  // Memories are written by `clk`; reading and multiplying go by a clock that rests between products.
  logic running, compute_clk;
  mx_clock_gate gate (.clk, .enable(running | reset), .gated(compute_clk));

  logic        frame_valid, frame_bad, frame_pending, advance, release_;
  logic [10:0] frame_length;
  logic [7:0]  data;
  mx_receive receive (
      .clk, .reset, .in_valid, .in_ready, .in_data, .frame_valid, .frame_length, .data, .advance, .release_,
      .bad(frame_bad), .pending(frame_pending)
  );

  logic       tx_idle, tx_start, tx_valid, tx_ready, tx_finish, tx_sent;
  logic [7:0] tx_data;
  mx_transmit transmit (
      .clk, .reset, .idle(tx_idle), .start(tx_start), .in_valid(tx_valid), .in_ready(tx_ready), .in_data(tx_data),
      .finish(tx_finish), .sent(tx_sent), .out_valid, .out_ready, .out_data
  );

  logic write_elements, write_scales, x_restart, x_write, run_start, step_valid, result_byte_valid, result_ready;
  logic [ELEMENT_BITS+ROW_SHIFT+1:0]   write_element_at;
  logic [63:0]                         write_element;
  logic [SCALE_BITS+ROW_SHIFT-1:0]     write_scale_at;
  logic [7:0]                          write_scale, x_data, result_data;
  logic [2:0]                          w_format, x_format;
  logic [BLOCK_BITS:0]                 x_blocks;
  logic [3:0]                          x_tokens;
  logic [ELEMENT_BITS-1:0]             run_word;
  logic [SCALE_BITS-1:0]               run_scale;
  logic [15:0]                         run_groups;
  mx_engine #(
      .ROWS(ROWS), .COLUMNS(COLUMNS), .GROUP(GROUP), .WORDS(WORDS), .BLOCKS(BLOCKS), .HANDLES(HANDLES),
      .CLOCK_HZ(CLOCK_HZ), .NAME(NAME)
  ) engine (
      .clk, .reset, .idle, .running, .frame_valid, .frame_length, .data, .advance, .release_, .frame_bad, .frame_pending, .tx_idle, .tx_start,
      .tx_valid, .tx_ready, .tx_data, .tx_finish, .tx_sent, .write_elements, .write_element_at, .write_element,
      .write_scales, .write_scale_at, .write_scale, .x_restart, .x_write, .x_data, .w_format, .x_format, .x_blocks,
      .x_tokens, .run_start, .run_word, .run_scale, .run_groups, .step_valid, .result_valid(result_byte_valid),
      .result_ready, .result_data, .energy_source, .energy_scope, .energy_samples, .energy_microjoules,
      .energy_nanoseconds
  );

  // What follows from the formats alone.
  logic [1:0] w_width, x_width;
  logic       w_two_digits, x_two_digits;
  always_ff @(posedge clk) begin
    w_width      <= fields_of(w_format).width;
    x_width      <= fields_of(x_format).width;
    w_two_digits <= FORMAT_TWO_DIGITS[w_format];
    x_two_digits <= FORMAT_TWO_DIGITS[x_format];
  end

  logic                    read, part_valid, group_left;
  logic [ELEMENT_BITS-1:0] read_at;
  logic [SCALE_BITS-1:0]   w_scale_at;
  logic [2:0]              granule_start;
  logic [BLOCK_BITS+2:0]   part_at;
  logic [BLOCK_BITS-1:0]   x_scale_at;
  step_t                   step0, step5;
  mx_sequencer #(.ELEMENT_BITS(ELEMENT_BITS), .SCALE_BITS(SCALE_BITS), .BLOCK_BITS(BLOCK_BITS)) sequencer (
      .clk(compute_clk), .reset, .start(run_start), .first_word(run_word), .first_scale(run_scale), .blocks(x_blocks),
      .groups(run_groups), .granules({1'b0, w_width} + 3'd2), .w_two_digits, .x_two_digits, .group_left, .read,
      .read_at, .w_scale_at, .granule_start, .part_valid, .part_at, .x_scale_at, .step(step0)
  );
  mx_delay #(.WIDTH($bits(step_t)), .DEPTH(5)) delay_step (.clk(compute_clk), .in(step0), .out({step5}));
  assign step_valid = step5.valid;

  logic [ROWS-1:0][LANES-1:0][7:0] w_code;
  logic [ROWS-1:0][7:0]            w_scale;
  mx_weights #(.ROWS(ROWS), .LANES(LANES), .WORDS(WORDS)) weights (
      .clk, .compute_clk, .write_elements, .write_element_at, .write_element, .write_scales, .write_scale_at, .write_scale,
      .width(w_width), .read, .read_at, .scale_at(w_scale_at), .start(granule_start), .code(w_code), .scale(w_scale)
  );

  logic                         next_valid;
  logic [COLUMNS-1:0][3:0][7:0] next_code;
  logic [COLUMNS-1:0][7:0]      x_scale;
  mx_activations #(.COLUMNS(COLUMNS), .BLOCKS(BLOCKS)) activations (
      .clk, .compute_clk, .restart(x_restart), .write(x_write), .write_data(x_data), .width(x_width), .blocks(x_blocks), .part_valid,
      .part_at, .scale_at(x_scale_at), .next_valid, .next_code, .scale(x_scale)
  );

  logic                               result_valid;
  logic [ROWS-1:0][COLUMNS-1:0][31:0] result;
  mx_tile #(.ROWS(ROWS), .COLUMNS(COLUMNS), .LANES(LANES)) tile (
      .clk(compute_clk), .w_format, .x_format, .step(step5), .w_code, .w_scale, .x_scale, .next_valid, .next_code, .result_valid,
      .result
  );
  mx_results #(.ROWS(ROWS), .COLUMNS(COLUMNS)) results (
      .clk, .reset, .tokens(x_tokens), .result_valid, .result, .group_left, .out_valid(result_byte_valid),
      .out_ready(result_ready), .out_data(result_data)
  );
endmodule
