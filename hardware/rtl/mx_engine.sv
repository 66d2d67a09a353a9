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
  typedef enum logic [3:0] {
    IDLE, HEADER, ARGUMENTS, CHECK, CHECK_SHAPE, ADDRESS, DATA, HEAD, PAYLOAD, ECHO, RESULTS, FINISH
  } state_t;
  state_t state;

  // ---------------------------------------------------------------- the request

  logic [7:0]       message;
  logic [15:0]      sequence_;
  logic [23:0][7:0] arguments;  // the last byte read lies highest
  logic [4:0]       arguments_left;
  logic [1:0]       header_left;
  logic [10:0]      payload_left;
  logic [7:0]       status;

  function automatic logic [4:0] argument_bytes(input logic [7:0] m);
    unique case (m)
      MESSAGE_LOAD_BEGIN:  return 5'd24;
      MESSAGE_LOAD_CHUNK:  return 5'd8;
      MESSAGE_LOAD_COMMIT: return 5'd1;
      MESSAGE_FREE:        return 5'd1;
      MESSAGE_ACTIVATIONS: return 5'd12;
      MESSAGE_RUN:         return 5'd8;
      default:             return 5'd0;
    endcase
  endfunction

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
    unique case (message)
      MESSAGE_LOAD_BEGIN: handle = begin_handle;
      MESSAGE_LOAD_CHUNK, MESSAGE_RUN: handle = arguments[16];
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
  logic [32:0] element_end, scale_end;
  logic        fits, shaped;
  assign element_end = {1'b0, begin_element_base} + {1'b0, begin_element_bytes};
  assign scale_end   = {1'b0, begin_scale_base} + {1'b0, begin_scale_bytes};

  // ---------------------------------------------------------------- activations

  logic        x_begun, x_complete;
  logic [15:0] x_tag;
  logic [31:0] x_total, x_next, x_token_bytes;
  logic [3:0]  tokens_left;
  assign x_complete = x_begun && x_next == x_total;

  // ---------------------------------------------------------------- streams of data

  // Both kinds of chunk come in order: the due one is written, an old one skipped, any other refused.
  logic [31:0] stream_next, stream_total, chunk_end;
  logic        is_load, due, old, writing_data, restarted;
  assign is_load      = message == MESSAGE_LOAD_CHUNK;
  assign stream_next  = is_load ? load_next : x_next;
  assign stream_total = is_load ? load_total : x_total;

  logic [2:0]  lane;           // byte of the 64 bits that are being collected
  logic [55:0] collected;
  logic [ELEMENT_BITS+ROW_SHIFT+1:0]   element_at;
  logic [SCALE_BITS+ROW_SHIFT-1:0] scale_at;
  logic        in_elements;
  assign in_elements = load_next < load_elements;

  // ---------------------------------------------------------------- running

  logic [31:0] product;        // first group * blocks
  logic [4:0]  product_left;
  logic [15:0] multiplier;
  logic [31:0] multiplicand;
  logic [15:0] run_end;
  logic [15:0] result_bytes_left;
  logic [31:0] run_bytes;

  // ---------------------------------------------------------------- replies

  logic [2:0]  head_at;
  logic [5:0]  payload_at, payload_bytes;
  logic [47:0][7:0] payload;   // byte 0 leaves first
  logic [47:0] cycles, busy_cycles, passes;
  logic [31:0] frames_received, frames_bad, frames_sent;
  logic        bad_pending;
  logic [47:0][7:0] hello, counters, energy;
  logic [15:0][7:0] name;
  // Its first character highest: a string parameter carries its zeros in front.
  function automatic logic [127:0] left_aligned(input logic [127:0] text);
    logic [127:0] t;
    t = text;
    for (int i = 0; i < 16; i++) if (t[127:120] == 0) t = t << 8;
    return t;
  endfunction
  localparam logic [127:0] ALIGNED_NAME = left_aligned(NAME);
  for (genvar i = 0; i < 16; i++) begin : g_name
    assign name[i] = ALIGNED_NAME[127-8*i-:8];
  end
  assign hello = {
      name, 32'(CLOCK_HZ), 32'(2 * ROWS * WORDS), 32'(32 * ROWS * WORDS), 6'd0, energy_source, 8'd2, 16'(MAX_PAYLOAD),
      16'(BLOCKS), 16'(HANDLES), 8'(GROUP), 8'(COLUMNS), 8'(ROWS), 8'd32, 16'((1 << FORMATS) - 1),
      VERSION_MINOR, VERSION_MAJOR, MAGIC
  };
  assign counters = {
      64'(frames_sent), 64'(frames_bad), 64'(frames_received), 64'(passes), 64'(busy_cycles), 64'(cycles)
  };
  assign energy = {
      192'd0, energy_nanoseconds, energy_microjoules, energy_samples, 16'd0, energy_scope, 6'd0, energy_source
  };

  assign idle = state == IDLE && !frame_pending && !bad_pending && tx_idle;

  // A byte of the frame is used up in these cycles.
  logic data_moves, echo_moves;
  assign data_moves = state == DATA && payload_left != 0;
  assign echo_moves = state == ECHO && payload_left != 0 && tx_ready;
  assign advance    = state == HEADER || state == ARGUMENTS || data_moves || echo_moves;
  assign release_   = state == FINISH && message != MESSAGE_BAD_FRAME;

  always_comb begin
    tx_valid = 1'b0;
    tx_data  = 8'd0;
    unique case (state)
      HEAD: begin
        tx_valid = head_at != 3'd0;
        unique case (head_at)
          3'd1:    tx_data = message | REPLY;
          3'd2:    tx_data = status;
          3'd3:    tx_data = sequence_[7:0];
          default: tx_data = sequence_[15:8];
        endcase
      end
      PAYLOAD: begin
        tx_valid = payload_at != payload_bytes;
        tx_data  = payload[0];
      end
      ECHO: begin
        tx_valid = payload_left != 0;
        tx_data  = data;
      end
      RESULTS: begin
        tx_valid = result_valid && result_bytes_left != 0;
        tx_data  = result_data;
      end
      default: ;
    endcase
  end
  assign result_ready = state == RESULTS && tx_ready;
  assign tx_start     = state == HEAD && head_at == 3'd0 && tx_idle;
  assign tx_finish    = state == FINISH;

  // Answer `s`, with what stands in `payload` if it is not OK.
  task automatic answer(input logic [7:0] s, input logic [31:0] number, input logic [5:0] bytes);
    status        <= s;
    payload[3:0]  <= number;
    payload_bytes <= bytes;
    payload_at    <= '0;
    head_at       <= '0;
    state         <= HEAD;
  endtask

  always_ff @(posedge clk) begin
    write_elements <= 1'b0;
    write_scales   <= 1'b0;
    x_restart      <= 1'b0;
    x_write        <= 1'b0;
    run_start      <= 1'b0;

    cycles      <= cycles + 48'd1;
    busy_cycles <= busy_cycles + 48'(running);
    passes      <= passes + 48'(step_valid);
    frames_sent <= frames_sent + 32'(tx_sent);
    frames_bad  <= frames_bad + 32'(frame_bad);
    if (frame_bad) bad_pending <= 1'b1;

    unique case (state)
      IDLE: begin
        header_left <= 2'd3;
        running     <= 1'b0;
        restarted   <= 1'b0;
        if (bad_pending) begin
          bad_pending <= frame_bad;
          message     <= MESSAGE_BAD_FRAME;
          sequence_   <= '0;
          answer(STATUS_BAD_FRAME, 32'd0, 6'd0);
        end else if (frame_valid) begin
          state           <= HEADER;
          payload_left    <= frame_length - 11'(HEADER_BYTES);
          frames_received <= frames_received + 32'd1;
        end
      end

      HEADER: begin
        header_left <= header_left - 2'd1;
        unique case (header_left)
          2'd3: message <= data;
          2'd1: sequence_[7:0] <= data;
          2'd0: begin
            sequence_[15:8] <= data;
            arguments_left  <= argument_bytes(message);
            if (payload_left < 11'(argument_bytes(message))) answer(STATUS_BAD_LENGTH, 32'd0, 6'd0);
            else if (argument_bytes(message) == 0) state <= CHECK;
            else state <= ARGUMENTS;
          end
          default: ;
        endcase
      end

      ARGUMENTS: begin
        arguments      <= {data, arguments[23:1]};
        arguments_left <= arguments_left - 5'd1;
        payload_left   <= payload_left - 11'd1;
        if (arguments_left == 5'd1) state <= CHECK;
      end

      // The table's entry arrives; sums and comparisons are made, to be used in the next cycle.
      CHECK: begin
        state     <= CHECK_SHAPE;
        fits      <= element_end <= 33'(32 * ROWS * WORDS) && scale_end <= 33'(2 * ROWS * WORDS)
                     && begin_element_base[WORD_SHIFT-1:0] == 0 && begin_element_bytes[WORD_SHIFT-1:0] == 0
                     && (begin_scale_base & 32'(ROWS - 1)) == 0 && (begin_scale_bytes & 32'(ROWS - 1)) == 0;
        shaped    <= message == MESSAGE_LOAD_BEGIN
                     ? begin_format < 8'(FORMATS) && begin_blocks != 0 && begin_blocks <= 16'(BLOCKS) && begin_groups != 0
                     : new_format < 8'(FORMATS) && new_blocks != 0 && new_blocks <= 16'(BLOCKS) && new_tokens != 0
                       && new_tokens <= 8'(COLUMNS);
        chunk_end <= offset + 32'(payload_left);
        due       <= offset == stream_next;
        old       <= offset + 32'(payload_left) <= stream_next;
        run_end   <= run_first + run_count;
        // Six bits of the count are enough to see that it is too much; more would take a DSP block.
        run_bytes <= (|run_count[15:6]) ? '1 : 32'(10'(run_count[5:0]) * 10'(x_tokens)) * 32'(4 * ROWS * GROUP);
        // A first part states the shape: its length follows, a token at a time.
        x_token_bytes <= (FORMAT_BITS[new_format[2:0]] == 4) ? {12'd0, new_blocks, 4'd0} + 32'(new_blocks)
                         : (FORMAT_BITS[new_format[2:0]] == 6) ? {12'd0, new_blocks, 4'd0} + {13'd0, new_blocks, 3'd0} + 32'(new_blocks)
                         : {11'd0, new_blocks, 5'd0} + 32'(new_blocks);
        tokens_left   <= new_tokens[3:0];
      end

      CHECK_SHAPE: begin
        unique case (message)
          MESSAGE_HELLO: begin
            answer(STATUS_OK, 32'd0, 6'd48);
            payload <= hello;
          end
          MESSAGE_PING: answer(STATUS_OK, 32'd0, 6'd0);
          MESSAGE_RESET: begin
            committed <= '0;
            loading   <= 1'b0;
            x_begun   <= 1'b0;
            {cycles, busy_cycles, passes, frames_received, frames_bad, frames_sent} <= '0;
            answer(STATUS_OK, 32'd0, 6'd0);
          end
          MESSAGE_COUNTERS: begin
            answer(STATUS_OK, 32'd0, 6'd48);
            payload <= counters;
          end
          MESSAGE_READ_ENERGY: begin
            answer(STATUS_OK, 32'd0, 6'd24);
            payload <= energy;
          end

          MESSAGE_LOAD_BEGIN:
            if (!handle_good) answer(STATUS_BAD_HANDLE, 32'd0, 6'd0);
            else if (!shaped) answer(STATUS_BAD_SHAPE, 32'd0, 6'd0);
            else if (!fits) answer(STATUS_OUT_OF_MEMORY, 32'd0, 6'd0);
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
              lane          <= '0;
              element_at    <= begin_element_base[3+:ELEMENT_BITS+ROW_SHIFT+2];
              scale_at      <= begin_scale_base[SCALE_BITS+ROW_SHIFT-1:0];
              answer(STATUS_OK, 32'd0, 6'd0);
            end
          MESSAGE_LOAD_COMMIT:
            if (!handle_good) answer(STATUS_BAD_HANDLE, 32'd0, 6'd0);
            else if (!loading || handle != loading_handle)
              answer(weight_committed ? STATUS_OK : STATUS_NOT_LOADING, 32'd0, 6'd0);
            else if (load_next != load_total) answer(STATUS_INCOMPLETE, load_next, 6'd4);
            else begin
              loading <= 1'b0;
              committed[handle[HANDLE_BITS-1:0]] <= 1'b1;
              answer(STATUS_OK, 32'd0, 6'd0);
            end
          MESSAGE_FREE:
            if (!handle_good) answer(STATUS_BAD_HANDLE, 32'd0, 6'd0);
            else begin
              committed[handle[HANDLE_BITS-1:0]] <= 1'b0;
              if (handle == loading_handle) loading <= 1'b0;
              answer(STATUS_OK, 32'd0, 6'd0);
            end

          MESSAGE_LOAD_CHUNK:
            if (!loading || handle != loading_handle) answer(STATUS_NOT_LOADING, 32'd0, 6'd0);
            else if (chunk_end > load_total || chunk_end < offset) answer(STATUS_BAD_LENGTH, 32'd0, 6'd0);
            else if (!due && !old) answer(STATUS_BAD_OFFSET, load_next, 6'd4);
            else begin
              writing_data <= due;
              state        <= DATA;
            end
          MESSAGE_ACTIVATIONS:
            if (!shaped) answer(STATUS_BAD_SHAPE, 32'd0, 6'd0);
            else if (offset == 0 && !restarted) begin
              // Sum up the length first, then come back.
              x_begun  <= 1'b0;
              x_tag    <= new_tag;
              x_format <= new_format[2:0];
              x_tokens <= new_tokens[3:0];
              x_blocks <= new_blocks[BLOCK_BITS:0];
              x_total  <= '0;
              x_next   <= '0;
              state    <= ADDRESS;
            end else if (!x_begun || x_tag != new_tag) answer(STATUS_NO_ACTIVATIONS, 32'd0, 6'd0);
            else if (chunk_end > x_total || chunk_end < offset) answer(STATUS_BAD_LENGTH, 32'd0, 6'd0);
            else if (!due && !old) answer(STATUS_BAD_OFFSET, x_next, 6'd4);
            else begin
              writing_data <= due;
              x_restart    <= restarted;
              state        <= DATA;
            end
          MESSAGE_RUN:
            if (!weight_committed) answer(STATUS_BAD_HANDLE, 32'd0, 6'd0);
            else if (!x_begun || x_tag != run_tag) answer(STATUS_NO_ACTIVATIONS, 32'd0, 6'd0);
            else if (!x_complete) answer(STATUS_INCOMPLETE, x_next, 6'd4);
            else if (weight.blocks != x_blocks || run_count == 0 || run_end > weight.groups || run_end < run_first
                     || run_bytes > 32'(MAX_PAYLOAD)) answer(STATUS_BAD_SHAPE, 32'd0, 6'd0);
            else begin
              w_format     <= weight.format;
              run_groups   <= run_count;
              product      <= '0;
              multiplier   <= run_first;
              multiplicand <= 32'(weight.blocks);
              result_bytes_left <= run_bytes[15:0];
              state        <= ADDRESS;
            end
          default: answer(STATUS_UNKNOWN_MESSAGE, 32'd0, 6'd0);
        endcase
      end

      ADDRESS:
        if (message == MESSAGE_ACTIVATIONS) begin
          if (tokens_left != 0) begin
            x_total     <= x_total + x_token_bytes;
            tokens_left <= tokens_left - 4'd1;
          end else begin
            x_begun   <= 1'b1;
            restarted <= 1'b1;
            state     <= CHECK;
          end
        end else if (multiplier != 0) begin
          if (multiplier[0]) product <= product + multiplicand;
          multiplier   <= multiplier >> 1;
          multiplicand <= multiplicand << 1;
        end else if (tx_idle) begin
          // A block of a group is GROUP steps of 2, 3 or 4 granules: 4, 6 or 8 words.
          run_word  <= weight.word + ELEMENT_BITS'(FORMAT_BITS[w_format] == 4 ? product << 2
                       : FORMAT_BITS[w_format] == 6 ? (product << 2) + (product << 1) : product << 3);
          run_scale <= weight.scale + SCALE_BITS'(product << 3);
          run_start <= 1'b1;
          running   <= 1'b1;
          answer(STATUS_OK, 32'd0, 6'd0);
        end

      DATA: begin
        if (payload_left == 0) answer(STATUS_OK, 32'd0, 6'd0);
        else begin
          payload_left <= payload_left - 11'd1;
          if (writing_data && is_load) begin
            load_next <= load_next + 32'd1;
            if (in_elements) begin
              lane      <= lane + 3'd1;
              collected <= {data, collected[55:8]};
              if (&lane) begin
                write_elements   <= 1'b1;
                write_element    <= {data, collected};
                write_element_at <= element_at;
                element_at       <= element_at + 1'b1;
              end
            end else begin
              write_scales   <= 1'b1;
              write_scale    <= data;
              write_scale_at <= scale_at;
              scale_at       <= scale_at + 1'b1;
            end
          end
          if (writing_data && !is_load) begin
            x_next  <= x_next + 32'd1;
            x_write <= 1'b1;
            x_data  <= data;
          end
        end
      end

      HEAD: if (head_at == 3'd0 ? tx_idle : tx_ready) begin
        // The first cycle opens the frame; the four bytes follow.
        head_at <= head_at + 3'd1;
        if (head_at == 3'd4) begin
          if (message == MESSAGE_PING && status == STATUS_OK) state <= ECHO;
          else if (message == MESSAGE_RUN && status == STATUS_OK) state <= RESULTS;
          else state <= PAYLOAD;
        end
      end
      PAYLOAD:
        if (payload_at == payload_bytes) state <= FINISH;
        else if (tx_ready) begin
          payload    <= payload >> 8;
          payload_at <= payload_at + 6'd1;
        end
      ECHO:
        if (payload_left == 0) state <= FINISH;
        else if (tx_ready) payload_left <= payload_left - 11'd1;
      RESULTS:
        if (result_bytes_left == 0) state <= FINISH;
        else if (tx_ready && result_valid) result_bytes_left <= result_bytes_left - 16'd1;
      FINISH: state <= IDLE;
      default: state <= IDLE;
    endcase

    if (reset) begin
      state       <= IDLE;
      committed   <= '0;
      loading     <= 1'b0;
      x_begun     <= 1'b0;
      bad_pending <= 1'b0;
      running     <= 1'b0;
      {cycles, busy_cycles, passes, frames_received, frames_bad, frames_sent} <= '0;
    end
  end

  // Also when the commit is refused: what was last begun for a handle is what its entry may hold.
  always_ff @(posedge clk) begin
    if (state == CHECK_SHAPE && message == MESSAGE_LOAD_COMMIT) table_[loading_handle[HANDLE_BITS-1:0]] <= loading_weight;
  end
endmodule
