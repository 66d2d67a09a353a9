// Executes requests, one after the other, and answers each. docs/fpga.md, "Protocol", is what this does.
module mx_engine
  import mx_constants::*;
#(
    parameter int ROWS = 2,
    parameter int COLUMNS = 2,
    parameter int GROUP = 8,
    parameter int WORDS = 1024,   // of the element memory
    parameter int BLOCKS = 256,   // in a row at most
    parameter int HANDLES = 16,
    parameter int CLOCK_HZ = 100_000_000,
    parameter logic [127:0] NAME = "sim",  // the first character highest, zeros in front
    localparam int ELEMENT_BITS = $clog2(WORDS),
    localparam int SCALE_BITS = ELEMENT_BITS + 1,
    localparam int BLOCK_BITS = $clog2(BLOCKS),
    localparam int WORD_SHIFT = $clog2(ROWS * 32),
    localparam int ROW_SHIFT = $clog2(ROWS)
) (
    input  logic clk,
    input  logic reset,
    output logic idle,
    output logic running,  // from a RUN's start to the end of its reply: what computes may rest otherwise

    // From mx_receive.
    input  logic        frame_valid,
    input  logic [10:0] frame_length,
    input  logic [7:0]  data,
    output logic        advance,
    output logic        release_,
    input  logic        frame_bad,
    input  logic        frame_pending,
    // To mx_transmit.
    input  logic       tx_idle,
    output logic       tx_start,
    output logic       tx_valid,
    input  logic       tx_ready,
    output logic [7:0] tx_data,
    output logic       tx_finish,
    input  logic       tx_sent,
    // To the memories.
    output logic write_elements,
    output logic [ELEMENT_BITS+ROW_SHIFT+1:0] write_element_at,
    output logic [63:0] write_element,
    output logic write_scales,
    output logic [SCALE_BITS+ROW_SHIFT-1:0] write_scale_at,
    output logic [7:0] write_scale,
    output logic x_restart,
    output logic x_write,
    output logic [7:0] x_data,
    // What is multiplied.
    output logic [2:0] w_format,
    output logic [2:0] x_format,
    output logic [BLOCK_BITS:0] x_blocks,
    output logic [3:0] x_tokens,
    output logic run_start,
    output logic [ELEMENT_BITS-1:0] run_word,
    output logic [SCALE_BITS-1:0] run_scale,
    output logic [15:0] run_groups,
    input  logic step_valid,
    input  logic result_valid,
    output logic result_ready,
    input  logic [7:0] result_data,
    // From a board's energy meter: running totals. Source 0: there is none.
    input  logic [1:0]  energy_source,
    input  logic [7:0]  energy_scope,
    input  logic [31:0] energy_samples,
    input  logic [63:0] energy_microjoules,
    input  logic [63:0] energy_nanoseconds
);
  typedef enum logic [3:0] {IDLE, READ, CHECK, CHECK_SHAPE, LENGTH, ADDRESS, DATA, ANSWER} state_t;
  state_t state;

  // ---------------------------------------------------------------- the request

  logic [7:0]       message, status;
  logic [15:0]      sequence_;
  logic [23:0][7:0] arguments;  // the last byte read lies highest
  logic [10:0]      payload_left;
  logic             bad_pending, reporting, begin_frame, begin_bad, request_done, too_short, data_moves, echo_moves;
  assign begin_bad   = state == IDLE && bad_pending;
  assign begin_frame = state == IDLE && !bad_pending && frame_valid;
  assign data_moves  = state == DATA && payload_left != 0;
  // A byte of the frame is used up in these cycles.
  assign advance     = state == READ || data_moves || echo_moves;
  mx_request request (
      .clk, .start(begin_frame), .start_bad(begin_bad), .frame_length, .data, .reading(state == READ), .done(request_done),
      .too_short, .data_moves(data_moves || echo_moves), .message, .sequence_, .arguments, .payload_left
  );

  // The message as one bit of sixteen: what decides by it is many levels deep as it is. Known before the last argument.
  logic [15:0] asked;
  always_ff @(posedge clk) asked <= message[7:4] == 0 ? 16'd1 << message[3:0] : 16'd0;

  // Arguments by name; where they lie follows from how many a message has.
  logic [7:0]  begin_handle, begin_format, handle;
  logic [15:0] begin_blocks, begin_groups;
  logic [31:0] begin_element_base, begin_element_bytes, begin_scale_base, begin_scale_bytes;
  assign begin_handle        = arguments[0];
  assign begin_format        = arguments[1];
  assign begin_blocks        = arguments[3:2];
  assign begin_groups        = arguments[5:4];
  assign begin_element_base  = arguments[11:8];
  assign begin_element_bytes = arguments[15:12];
  assign begin_scale_base    = arguments[19:16];
  assign begin_scale_bytes   = arguments[23:20];
  logic [31:0] offset;                    // of LOAD_CHUNK and ACTIVATIONS
  assign offset = arguments[23:20];
  logic [15:0] new_tag, new_blocks;       // of ACTIVATIONS
  logic [7:0]  new_format, new_tokens;
  assign new_tag    = arguments[13:12];
  assign new_format = arguments[14];
  assign new_tokens = arguments[15];
  assign new_blocks = arguments[17:16];
  logic [15:0] run_tag, run_first, run_count;
  assign run_tag   = arguments[19:18];
  assign run_first = arguments[21:20];
  assign run_count = arguments[23:22];
  always_comb begin
    unique case (1'b1)
      asked[MESSAGE_LOAD_BEGIN[3:0]]: handle = begin_handle;
      asked[MESSAGE_LOAD_CHUNK[3:0]], asked[MESSAGE_RUN[3:0]]: handle = arguments[16];
      default: handle = arguments[23];
    endcase
  end

  // ---------------------------------------------------------------- weights

  typedef struct packed {
    logic [2:0]              format;
    logic [BLOCK_BITS:0]     blocks;
    logic [15:0]             groups;
    logic [ELEMENT_BITS-1:0] word;
    logic [SCALE_BITS-1:0]   scale;
  } weight_t;
  localparam int HANDLE_BITS = $clog2(HANDLES);
  weight_t            table_[HANDLES];
  logic [HANDLES-1:0] committed;
  weight_t            weight;      // of the request's handle
  logic               weight_committed, handle_good;
  assign handle_good = 32'(handle) < HANDLES;
  always_ff @(posedge clk) begin
    weight           <= table_[handle[HANDLE_BITS-1:0]];
    weight_committed <= committed[handle[HANDLE_BITS-1:0]] && handle_good;
  end

  logic        loading;
  logic [7:0]  loading_handle;
  weight_t     loading_weight;
  logic [31:0] load_total, load_elements, load_next;

  // ---------------------------------------------------------------- activations

  logic        x_begun, x_complete;
  logic [15:0] x_tag;
  logic [31:0] x_total, x_next, x_token_bytes;
  logic [3:0]  tokens_left;
  assign x_complete = x_begun && x_next == x_total;

  // ---------------------------------------------------------------- streams of data

  // Both kinds of chunk come in order: the due one is written, an old one skipped, any other refused.
  logic [31:0] stream_next, chunk_end;
  logic        is_load, due, old, writing_data, restarted;
  assign is_load      = asked[MESSAGE_LOAD_CHUNK[3:0]];
  assign stream_next  = is_load ? load_next : x_next;

  logic is_element, load_restart;
  assign is_element = load_next < load_elements;
  mx_loader #(.ELEMENT_PLACE_BITS(ELEMENT_BITS + ROW_SHIFT + 2), .SCALE_PLACE_BITS(SCALE_BITS + ROW_SHIFT)) loader (
      .clk, .restart(load_restart), .element_base(begin_element_base[3+:ELEMENT_BITS+ROW_SHIFT+2]),
      .scale_base(begin_scale_base[SCALE_BITS+ROW_SHIFT-1:0]), .valid(data_moves && writing_data && is_load), .is_element,
      .data, .write_elements, .write_element_at, .write_element, .write_scales, .write_scale_at, .write_scale
  );

  // ---------------------------------------------------------------- running

  logic [15:0] run_end;
  logic [31:0] run_bytes;
  logic        weight_fits, weight_shaped, x_shaped;
  mx_checks #(.ROWS(ROWS), .COLUMNS(COLUMNS), .GROUP(GROUP), .WORDS(WORDS), .BLOCKS(BLOCKS)) checks (
      .clk, .weight_format(begin_format), .weight_blocks(begin_blocks), .weight_groups(begin_groups),
      .element_base(begin_element_base), .element_bytes(begin_element_bytes), .scale_base(begin_scale_base),
      .scale_bytes(begin_scale_bytes), .weight_fits, .weight_shaped, .x_format(new_format), .x_blocks(new_blocks),
      .x_tokens(new_tokens), .x_shaped, .x_token_bytes, .run_count, .run_tokens(x_tokens), .run_bytes
  );

  logic        address_done;
  mx_address #(.ELEMENT_BITS(ELEMENT_BITS), .SCALE_BITS(SCALE_BITS), .BLOCK_BITS(BLOCK_BITS)) address (
      .clk, .start(state == CHECK_SHAPE), .format(weight.format), .blocks(weight.blocks), .first_group(run_first),
      .weight_word(weight.word), .weight_scale(weight.scale), .done(address_done), .word(run_word), .scale(run_scale)
  );

  // ---------------------------------------------------------------- replies

  logic             clear;
  logic [31:0]      number;        // the payload of a refusal
  logic [5:0]       payload_bytes;
  logic [47:0][7:0] payload;
  mx_payloads #(
      .ROWS(ROWS), .COLUMNS(COLUMNS), .GROUP(GROUP), .WORDS(WORDS), .BLOCKS(BLOCKS), .HANDLES(HANDLES),
      .CLOCK_HZ(CLOCK_HZ), .NAME(NAME)
  ) payloads (
      .clk, .asked, .number, .payload, .clear(clear | reset), .running, .step_valid, .frame_received(begin_frame),
      .frame_bad, .frame_sent(tx_sent), .energy_source, .energy_scope, .energy_samples, .energy_microjoules,
      .energy_nanoseconds
  );

  logic reply_done;
  mx_reply reply (
      .clk, .reset, .active(state == ANSWER), .done(reply_done), .message, .asked, .status, .sequence_, .payload, .payload_bytes,
      .echo_valid(payload_left != 0), .echo_data(data), .echo_moves, .result_bytes(run_bytes[15:0]), .result_valid,
      .result_ready, .result_data, .tx_idle, .tx_start, .tx_valid, .tx_ready, .tx_data, .tx_finish
  );

  assign idle = state == IDLE && !frame_pending && !bad_pending && tx_idle;

  assign release_ = reply_done && !reporting;

  // Answer `s`, with `bytes` of `n` if it is not OK.
  task automatic answer(input logic [7:0] s, input logic [31:0] n, input logic [5:0] bytes);
    status        <= s;
    number        <= n;
    payload_bytes <= bytes;
    state         <= ANSWER;
  endtask

  always_ff @(posedge clk) begin
    load_restart <= 1'b0;
    clear        <= 1'b0;
    x_restart    <= 1'b0;
    x_write      <= 1'b0;
    run_start    <= 1'b0;

    if (frame_bad) bad_pending <= 1'b1;

    unique case (state)
      IDLE: begin
        running   <= 1'b0;
        restarted <= 1'b0;
        reporting <= begin_bad;
        if (begin_bad) begin
          bad_pending <= frame_bad;
          answer(STATUS_BAD_FRAME, 32'd0, 6'd0);
        end else if (begin_frame) state <= READ;
      end

      READ:
        if (too_short) answer(STATUS_BAD_LENGTH, 32'd0, 6'd0);
        else if (request_done) state <= CHECK;

      // The table's entry arrives; sums and comparisons are made, to be used in the next cycle.
      CHECK: begin
        state       <= CHECK_SHAPE;
        chunk_end   <= offset + 32'(payload_left);
        due         <= offset == stream_next;
        old         <= offset + 32'(payload_left) <= stream_next;
        run_end     <= run_first + run_count;
        tokens_left <= new_tokens[3:0];
      end

      CHECK_SHAPE: begin
        unique case (1'b1)
          asked[MESSAGE_HELLO[3:0]]: answer(STATUS_OK, 32'd0, 6'd48);
          asked[MESSAGE_PING[3:0]]: answer(STATUS_OK, 32'd0, 6'd0);
          asked[MESSAGE_RESET[3:0]]: begin
            committed <= '0;
            loading   <= 1'b0;
            x_begun   <= 1'b0;
            clear     <= 1'b1;
            answer(STATUS_OK, 32'd0, 6'd0);
          end
          asked[MESSAGE_COUNTERS[3:0]]: answer(STATUS_OK, 32'd0, 6'd48);
          asked[MESSAGE_READ_ENERGY[3:0]]: answer(STATUS_OK, 32'd0, 6'd24);

          asked[MESSAGE_LOAD_BEGIN[3:0]]:
            if (!handle_good) answer(STATUS_BAD_HANDLE, 32'd0, 6'd0);
            else if (!weight_shaped) answer(STATUS_BAD_SHAPE, 32'd0, 6'd0);
            else if (!weight_fits) answer(STATUS_OUT_OF_MEMORY, 32'd0, 6'd0);
            else begin
              loading        <= 1'b1;
              loading_handle <= handle;
              loading_weight <= '{
                  format: begin_format[2:0],
                  blocks: begin_blocks[BLOCK_BITS:0],
                  groups: begin_groups,
                  word: begin_element_base[WORD_SHIFT+:ELEMENT_BITS],
                  scale: begin_scale_base[ROW_SHIFT+:SCALE_BITS]
              };
              committed[handle[HANDLE_BITS-1:0]] <= 1'b0;
              load_total    <= begin_element_bytes + begin_scale_bytes;
              load_elements <= begin_element_bytes;
              load_next     <= '0;
              load_restart  <= 1'b1;
              answer(STATUS_OK, 32'd0, 6'd0);
            end
          asked[MESSAGE_LOAD_COMMIT[3:0]]:
            if (!handle_good) answer(STATUS_BAD_HANDLE, 32'd0, 6'd0);
            else if (!loading || handle != loading_handle)
              answer(weight_committed ? STATUS_OK : STATUS_NOT_LOADING, 32'd0, 6'd0);
            else if (load_next != load_total) answer(STATUS_INCOMPLETE, load_next, 6'd4);
            else begin
              loading <= 1'b0;
              committed[handle[HANDLE_BITS-1:0]] <= 1'b1;
              answer(STATUS_OK, 32'd0, 6'd0);
            end
          asked[MESSAGE_FREE[3:0]]:
            if (!handle_good) answer(STATUS_BAD_HANDLE, 32'd0, 6'd0);
            else begin
              committed[handle[HANDLE_BITS-1:0]] <= 1'b0;
              if (handle == loading_handle) loading <= 1'b0;
              answer(STATUS_OK, 32'd0, 6'd0);
            end

          asked[MESSAGE_LOAD_CHUNK[3:0]]:
            if (!loading || handle != loading_handle) answer(STATUS_NOT_LOADING, 32'd0, 6'd0);
            else if (chunk_end > load_total || chunk_end < offset) answer(STATUS_BAD_LENGTH, 32'd0, 6'd0);
            else if (!due && !old) answer(STATUS_BAD_OFFSET, load_next, 6'd4);
            else begin
              writing_data <= due;
              state        <= DATA;
            end
          asked[MESSAGE_ACTIVATIONS[3:0]]:
            if (!x_shaped) answer(STATUS_BAD_SHAPE, 32'd0, 6'd0);
            else if (offset == 0 && !restarted) begin
              // Sum up the length first, then come back.
              x_begun  <= 1'b0;
              x_tag    <= new_tag;
              x_format <= new_format[2:0];
              x_tokens <= new_tokens[3:0];
              x_blocks <= new_blocks[BLOCK_BITS:0];
              x_total  <= '0;
              x_next   <= '0;
              state    <= LENGTH;
            end else if (!x_begun || x_tag != new_tag) answer(STATUS_NO_ACTIVATIONS, 32'd0, 6'd0);
            else if (chunk_end > x_total || chunk_end < offset) answer(STATUS_BAD_LENGTH, 32'd0, 6'd0);
            else if (!due && !old) answer(STATUS_BAD_OFFSET, x_next, 6'd4);
            else begin
              writing_data <= due;
              x_restart    <= restarted;
              state        <= DATA;
            end
          asked[MESSAGE_RUN[3:0]]:
            if (!weight_committed) answer(STATUS_BAD_HANDLE, 32'd0, 6'd0);
            else if (!x_begun || x_tag != run_tag) answer(STATUS_NO_ACTIVATIONS, 32'd0, 6'd0);
            else if (!x_complete) answer(STATUS_INCOMPLETE, x_next, 6'd4);
            else if (weight.blocks != x_blocks || run_count == 0 || run_end > weight.groups || run_end < run_first
                     || run_bytes > 32'(MAX_PAYLOAD)) answer(STATUS_BAD_SHAPE, 32'd0, 6'd0);
            else begin
              w_format   <= weight.format;
              run_groups <= run_count;
              state      <= ADDRESS;
            end
          default: answer(STATUS_UNKNOWN_MESSAGE, 32'd0, 6'd0);
        endcase
      end

      LENGTH:
        if (tokens_left != 0) begin
          x_total     <= x_total + x_token_bytes;
          tokens_left <= tokens_left - 4'd1;
        end else begin
          x_begun   <= 1'b1;
          restarted <= 1'b1;
          state     <= CHECK;
        end

      ADDRESS:
        if (address_done && tx_idle) begin
          run_start <= 1'b1;
          running   <= 1'b1;
          answer(STATUS_OK, 32'd0, 6'd0);
        end

      DATA: begin
        if (payload_left == 0) answer(STATUS_OK, 32'd0, 6'd0);
        else begin
          if (writing_data && is_load) load_next <= load_next + 32'd1;
          if (writing_data && !is_load) begin
            x_next  <= x_next + 32'd1;
            x_write <= 1'b1;
            x_data  <= data;
          end
        end
      end

      ANSWER: if (reply_done) state <= IDLE;
      default: state <= IDLE;
    endcase

    if (reset) begin
      state       <= IDLE;
      committed   <= '0;
      loading     <= 1'b0;
      x_begun     <= 1'b0;
      bad_pending <= 1'b0;
      running     <= 1'b0;
    end
  end

  // Also when the commit is refused: what was last begun for a handle is what its entry may hold.
  always_ff @(posedge clk) begin
    if (state == CHECK_SHAPE && asked[MESSAGE_LOAD_COMMIT[3:0]]) table_[loading_handle[HANDLE_BITS-1:0]] <= loading_weight;
  end
endmodule
