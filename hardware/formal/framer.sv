// The claims. Every frame that `mx_transmit` is given, `mx_receive` gives, once, in order, with its length and every byte,
// whatever the pauses of sender, line and reader, and whatever came on the line before it, if a zero byte ended that.
// Inside a frame there is no zero byte. Of all else on the line `mx_receive` keeps what is a frame (COBS, CRC, length)
// and calls bad what is none. Content of HEADER_BYTES to MAX_CONTENT bytes, as many frames as you like: by induction,
// not up to a length. That a frame arrives in the end, if nobody pauses for ever, is not claimed.
//
// `place` and `index` are arbitrary and rest: what is proved of them holds for every place of the transmitter's
// buffer and every byte of a frame. Asserted are the claims at the end and, under names with `i_`, what the induction
// needs besides.
module framer
  import mx_constants::*;
  import mx_crc32::*;
(
    input  logic        clk,
    input  logic        reset,
    input  logic [11:0] any_place,
    input  logic [10:0] any_index,
    output logic        idle,         // the sender
    input  logic        start,
    input  logic        in_valid,
    output logic        in_ready,
    input  logic [7:0]  in_data,
    input  logic        finish,
    input  logic        pause,        // the line
    input  logic        noise_valid,
    output logic        noise_ready,
    input  logic [7:0]  noise,
    output logic        frame_valid,  // the reader
    output logic [10:0] frame_length,
    output logic [7:0]  data,
    input  logic        advance,
    input  logic        release_
);
  // The transmitter's states, in its order: names of an enumeration are not reached from outside.
  localparam logic [2:0] IDLE = 3'd0, FILL = 3'd1, CRC = 3'd2, CLOSE = 3'd3, FETCH = 3'd4, SEND = 3'd5, DELIMIT = 3'd6;

  logic        begun = 1'b0;
  logic [11:0] place;
  logic [10:0] index;
  always_ff @(posedge clk) begin
    begun <= 1'b1;
    if (reset) begin
      place <= any_place;
      index <= any_index;
    end
  end
  always_ff @(posedge clk) assume (begun || reset);

  logic       sent, out_valid, line, line_valid, line_ready;
  logic [7:0] out_data, line_data;
  mx_transmit tx (
      .clk, .reset, .idle, .start, .in_valid, .in_ready, .in_data, .finish, .sent, .out_valid, .out_ready(line && line_ready), .out_data
  );
  logic bad, pending;
  mx_receive rx (
      .clk, .reset, .in_valid(line_valid), .in_ready(line_ready), .in_data(line_data), .frame_valid, .frame_length, .data,
      .advance, .release_, .bad, .pending
  );

  // The line: noise lies between frames only, and the next frame waits for the zero byte that ends it.
  logic in_frame, noisy, line_any;
  assign in_frame    = (tx.state == SEND && tx.at != 0) || tx.state == DELIMIT;
  assign noisy       = noise_valid && !in_frame;
  assign noise_ready = line_ready && !in_frame;
  assign line        = !pause && !noisy && (in_frame || !line_any);
  assign line_valid  = noisy || (out_valid && line);
  assign line_data   = noisy ? noise : out_data;

  // What sender and reader keep to.
  logic        open, given;  // between start and finish; a byte is given
  logic [11:0] count;        // bytes of the message that were given, then those of its CRC that were made
  logic [1:0]  held;         // buffers that hold a frame
  logic        next_in, next_out;
  assign given = in_valid && in_ready;
  always_ff @(posedge clk) begin
    assume (!start || idle);
    assume (!given || count < 12'(MAX_CONTENT));
    assume (!(finish && open) || count + 12'(given) >= 12'(HEADER_BYTES));
    assume (!release_ || held[next_out]);
  end

  // What is remembered.
  framer_pkg::memo_t memo[4096];
  logic [11:0] content;
  logic [31:0] crc, content_crc;
  logic [7:0]  value;      // of the watched byte
  logic [3:0]  full_runs, frames_given;
  logic        gives_out, finishing;
  assign gives_out = tx.take || tx.full_run;
  // `tx.byte_` is what was given: `i_taken`. A byte by one name makes shorter questions.
  always_ff @(posedge clk) begin
    if (idle && start) begin
      memo[0]   <= '{8'd0, 8'd0, 12'd0, START};
      count     <= '0;
      crc       <= START;
      full_runs <= '0;
    end else if (gives_out) begin
      if (tx.full_run) full_runs <= full_runs + 4'd1;
      memo[tx.place] <= '{tx.take && tx.byte_ != 0 ? tx.code : 8'd0, tx.code, count, crc};
    end
    if (given || tx.take) begin
      count <= count + 12'd1;
      crc   <= crc_byte(crc, tx.byte_);
    end
    if ((given || tx.take) && count == 12'(index)) value <= tx.byte_;
    if (open && finish) begin
      content      <= count + 12'(given);
      content_crc  <= given ? crc_byte(crc, tx.byte_) : crc;
      frames_given <= frames_given + 4'd1;
    end
    finishing <= open && finish && !reset;
    open      <= !reset && (open ? !finish : idle && start);
    if (reset) frames_given <= '0;
  end

  // The induction. What is asserted of `place` is so for all places at once, since nothing else looks at it: of those
  // that are being sent it may be relied on, one cycle ago.
  logic filled, closed, holds_at, holds_next, held_at, held_next;
  assign filled = tx.state != IDLE;
  assign closed = tx.state == FETCH || tx.state == SEND || tx.state == DELIMIT;
  framer_place #(.ASSERTED(1'b1)) any (.clk, .place, .holds());
  framer_place sent_now (.clk, .place(tx.at), .holds(holds_at));
  framer_place sent_next (.clk, .place(tx.at + 12'd1), .holds(holds_next));
  initial {held_at, held_next} = 2'b11;
  always_ff @(posedge clk) {held_at, held_next} <= {!begun || holds_at, !begun || holds_next};
  always_ff @(posedge clk) assume (held_at && held_next);

  // The transmitter.
  logic [11:0] last;
  framer_pkg::memo_t memo_last, memo_code;
  assign last      = tx.place - 12'd1;
  assign memo_last = memo[last];
  assign memo_code = memo[tx.code_place];
  logic [31:0] after1, after2, after3;
  assign after1 = crc_byte(content_crc, ~content_crc[7:0]);
  assign after2 = crc_byte(after1, ~content_crc[15:8]);
  assign after3 = crc_byte(after2, ~content_crc[23:16]);
  always_ff @(posedge clk) begin
    if (begun && filled) begin
      i_taken  : assert ((tx.take && tx.state == FILL) == given && (!given || tx.byte_ == in_data));
      i_run    : assert (tx.code != 0 && tx.place == tx.code_place + 12'(tx.code) && tx.code_place < tx.place);
      i_full   : assert (tx.full_run == (tx.code == 8'd255) && !(tx.full_run && closed));
      i_code   : assert (memo_code.distance == 0 && memo_last.distance == tx.code - 8'd1);
      i_places : assert (tx.place == 12'd1 + count + 12'(full_runs) && full_runs <= 4'd8);
      i_runs   : assert (16'd254 * full_runs + tx.code - 16'd1 <= 16'(count));
      i_count  : assert (count <= 12'(MAX_CONTENT + 4));
      i_chain  : assert (count == memo_last.index + 12'(framer_pkg::stands_for_a_byte(memo_last, last))
                      && crc == framer_pkg::crc_after(memo_last, last, tx.buffer[last]));
      if (tx.state == FILL) begin
        i_fill : assert (count <= 12'(MAX_CONTENT) && tx.crc == crc && tx.crc_byte_number == 0);
      end else begin
        i_content : assert (content >= 12'(HEADER_BYTES) && content <= 12'(MAX_CONTENT));
        i_length  : assert (count == content + (tx.state == CRC ? 12'(tx.crc_byte_number) : 12'd4));
        if (tx.state != CRC) i_residue : assert (crc == RESIDUE);
        else case (tx.crc_byte_number)
          2'd0: i_crc0 : assert (tx.crc == content_crc && crc == content_crc);
          2'd1: i_crc1 : assert (tx.crc == {8'hff, content_crc[31:8]} && crc == after1);
          2'd2: i_crc2 : assert (tx.crc == {16'hffff, content_crc[31:16]} && crc == after2);
          default: i_crc3 : assert (tx.crc == {24'hffffff, content_crc[31:24]} && crc == after3);
        endcase
      end
      if (closed) i_closed : assert (tx.buffer[tx.code_place] == tx.code);
      if (tx.state == FETCH) i_fetch : assert (tx.at == 0);
      if (tx.state == SEND) i_fetched : assert (tx.at < tx.place && tx.fetched == tx.buffer[tx.at]);
    end
    if (begun) begin
      i_state  : assert (tx.state <= DELIMIT);
      i_open   : assert (open == (tx.state == FILL) && (!given || open));
      i_finish : assert (!finishing || tx.state == CRC);
    end
  end

  // What came on the line since its last zero byte: COBS undone, bytes counted, as far as a buffer needs to be told apart.
  logic [7:0]  line_left, line_value, line_byte;
  logic        line_zero, line_taken, line_stores, line_ends, is_frame;
  logic [11:0] line_count;
  logic [31:0] line_crc;
  assign line_taken  = line_valid && line_ready;
  assign line_ends   = line_taken && line_data == 0;
  assign line_stores = line_taken && line_data != 0 && (line_left != 0 || line_zero);
  assign line_byte   = line_left != 0 ? line_data : 8'd0;
  assign is_frame    = line_left == 0 && line_crc == RESIDUE && line_count >= 12'd8 && line_count <= 12'd2048;
  always_ff @(posedge clk) begin
    if (reset || line_ends) begin
      {line_any, line_left, line_zero, line_count} <= '0;
      line_crc <= START;
    end else if (line_taken) begin
      line_any  <= 1'b1;
      line_left <= line_left != 0 ? line_left - 8'd1 : line_data - 8'd1;
      if (line_left == 0) line_zero <= line_data != 8'd255;
      if (line_stores) begin
        if (line_count != 12'd2049) line_count <= line_count + 12'd1;
        line_crc <= crc_byte(line_crc, line_byte);
        if (line_count == 12'(index)) line_value <= line_byte;
      end
    end
  end

  // Frames that wait for the reader: the buffers take turns.
  logic [1:0][10:0] held_length;
  logic [1:0][7:0]  held_value;
  logic             line_bad, line_sent;
  always_ff @(posedge clk) begin
    if (line_ends && line_any && is_frame) begin
      held[next_in]        <= 1'b1;
      held_length[next_in] <= 11'(line_count - 12'd4);
      held_value[next_in]  <= line_value;
      next_in              <= !next_in;
    end
    if (release_) begin
      held[next_out] <= 1'b0;
      next_out       <= !next_out;
    end
    if (reset) {held, next_in, next_out} <= '0;
    line_bad  <= !reset && line_ends && line_any && !is_frame;
    line_sent <= line && line_ready && tx.state == DELIMIT;
  end

  // The receiver is where the transmitter is.
  logic [11:0] sending, code_at;
  framer_pkg::memo_t memo_at;
  assign sending = tx.state == DELIMIT ? tx.place : tx.at;
  assign memo_at = memo[sending];
  assign code_at = sending - 12'(memo_at.distance);
  always_ff @(posedge clk) begin
    if (begun) begin
      i_line   : assert (rx.started == line_any && rx.left == line_left && rx.zero_due == line_zero && rx.crc == line_crc);
      i_start  : assert (line_any || (line_left == 0 && !line_zero && line_count == 0 && line_crc == START));
      i_place  : assert (rx.place == (line_count > 12'd2048 ? 12'd2048 : line_count) && rx.overlong == (line_count > 12'd2048));
      i_room   : assert (line_count <= 12'd2049 && (!line_any || !held[next_in]));
      i_stored : assert (line_count <= 12'(index) || rx.buffer[{next_in, index}] == line_value);
      i_turns  : assert (rx.writing == next_in && rx.reading == next_out && (held == 0 || held[next_out])
                      && (next_in == next_out) == (held == 2'b00 || held == 2'b11));
    end
    if (begun && in_frame) begin
      i_begun  : assert (rx.started && !rx.overlong);
      if (tx.state == DELIMIT) begin
        i_end : assert (rx.left == 0 && rx.place == count && rx.crc == crc);
      end else begin
        i_left     : assert (rx.left == (memo_at.distance == 0 ? 8'd0 : tx.buffer[code_at] - memo_at.distance));
        i_zero_due : assert (rx.zero_due == (memo_at.distance == 0 ? memo_at.run_before != 8'd255 : tx.buffer[code_at] != 8'd255));
        i_so_far   : assert (rx.place == memo_at.index && rx.crc == memo_at.crc);
      end
      i_value  : assert (line_count <= 12'(index) || line_value == value);
    end
  end

  // The transmitter's frames among those that wait.
  logic [1:0]       ours;
  logic [1:0][10:0] ours_length;
  logic [1:0][7:0]  ours_value;
  logic [1:0][3:0]  ours_number;
  logic [3:0]       frames_sent, frames_read;
  logic             arrives;
  assign arrives = line_taken && !noisy && line_data == 0;
  always_ff @(posedge clk) begin
    if (line_ends) ours[next_in] <= arrives;
    if (arrives) begin
      ours_length[next_in] <= 11'(content);
      ours_value[next_in]  <= value;
      ours_number[next_in] <= frames_sent;
      frames_sent          <= frames_sent + 4'd1;
    end
    if (release_ && ours[next_out]) frames_read <= frames_read + 4'd1;
    if (reset) {frames_sent, frames_read} <= '0;
  end

  logic [1:0] waiting;
  assign waiting = held & ours;
  logic [10:0] at;  // the reader's place
  logic        was_noise, to_stay;
  always_ff @(posedge clk) begin
    was_noise <= noisy;
    to_stay   <= frame_valid && !release_ && !reset;
    if (release_ || reset) at <= '0;
    else if (frame_valid && advance) at <= at + 11'd1;
  end
  always_ff @(posedge clk) if (begun) begin
    i_at     : assert (rx.at == at + 11'(rx.data_valid) + 11'(rx.fetched_valid) && (!rx.data_valid || rx.fetched_valid));
    i_valid  : assert (held[next_out] || !(rx.data_valid || rx.fetched_valid));
    i_first  : assert (!waiting[next_out] || ours_number[next_out] == frames_read);
    i_second : assert (waiting != 2'b11 || ours_number[!next_out] == frames_read + 4'd1);
    i_only   : assert (held != 2'b11 || waiting[next_out] || !waiting[!next_out] || ours_number[!next_out] == frames_read);
    if (held[next_out] && index < held_length[next_out] && rx.fetched_valid && at + 11'(rx.data_valid) == index) begin
      i_ahead : assert (rx.fetched == held_value[next_out]);
    end
  end

  for (genvar s = 0; s < 2; s++) begin : g_buffer
    always_ff @(posedge clk) if (begun && held[s]) begin
      i_length : assert (rx.length[s] == held_length[s] && held_length[s] >= 11'(HEADER_BYTES) && held_length[s] <= 11'(MAX_CONTENT));
      i_kept   : assert (index >= held_length[s] || rx.buffer[{1'(s), index}] == held_value[s]);
      i_ours   : assert (!ours[s] || (held_length[s] == ours_length[s] && (index >= held_length[s] || held_value[s] == ours_value[s])));
    end
  end

  // What comes of it.
  always_ff @(posedge clk) if (begun) begin
    no_zero_inside  : assert (tx.state != SEND || out_data != 0);
    every_one_sent  : assert (frames_given - frames_sent == 4'(tx.state >= CRC));
    every_one_taken : assert (!arrives || (line_any && is_frame && line_count == content + 12'd4));
    none_lost       : assert (frames_sent - frames_read == 4'(waiting[0]) + 4'(waiting[1]));
    none_called_bad : assert (!bad || was_noise);
    bad_if_it_is    : assert (bad == line_bad);
    kept_if_it_is   : assert (rx.full == held);
    all_is_reported : assert (pending == (held != 0 || bad) && sent == line_sent);
    stays_to_be_read: assert (!to_stay || frame_valid);
    if (frame_valid) begin
      one_is_there : assert (held[next_out] && frame_length == held_length[next_out]);
      every_byte   : assert (at != index || index >= frame_length || data == held_value[next_out]);
      its_bytes    : assert (!ours[next_out] || index >= frame_length || held_value[next_out] == ours_value[next_out]);
      its_length   : assert (!ours[next_out] || frame_length == ours_length[next_out]);
      in_order     : assert (!ours[next_out] || ours_number[next_out] == frames_read);
    end
    a_byte_is_read  : cover (frame_valid && ours[next_out] && at == index && index < frame_length && data == 0);
    a_frame_arrives : cover (arrives && held == 2'b01 && !ours[0] && full_runs != 0);
    noise_is_bad    : cover (bad && tx.state == SEND && line_count == 0);
  end
endmodule
