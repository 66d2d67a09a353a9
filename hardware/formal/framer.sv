// The claim: what `mx_transmit` is given, `mx_receive` gives: every frame, in order, with its length and every byte, whatever
// the pauses of sender, line and reader, and whatever noise came on the line before it, if a zero byte ended that. Inside
// a frame there is no zero byte. Content of HEADER_BYTES to MAX_CONTENT bytes, as many frames as you like: by induction,
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
  logic in_frame, noisy;
  assign in_frame    = (tx.state == SEND && tx.at != 0) || tx.state == DELIMIT;
  assign noisy       = noise_valid && !in_frame;
  assign noise_ready = line_ready && !in_frame;
  assign line        = !pause && !noisy && (in_frame || !rx.started);
  assign line_valid  = noisy || (out_valid && line);
  assign line_data   = noisy ? noise : out_data;

  // What sender, line and reader keep to.
  logic [11:0] count;  // bytes of the message that the transmitter has taken or made
  always_ff @(posedge clk) begin
    assume (!start || idle);
    assume (!(in_valid && in_ready) || count < 12'(MAX_CONTENT));
    assume (!(finish && tx.state == FILL) || count + 12'(tx.take) >= 12'(HEADER_BYTES));
    assume (!release_ || rx.full[rx.reading]);
  end

  // What is remembered.
  framer_pkg::memo_t memo[4096];
  logic [11:0] content;
  logic [31:0] crc, content_crc;
  logic [7:0]  value;      // of the watched byte
  logic [3:0]  full_runs;
  logic        gives_out;
  assign gives_out = tx.take || tx.full_run;
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
    if (tx.take) begin
      count <= count + 12'd1;
      crc   <= crc_byte(crc, tx.byte_);
      if (count == 12'(index)) value <= tx.byte_;
    end
    if (tx.state == FILL && finish) begin
      content     <= count + 12'(tx.take);
      content_crc <= tx.take ? crc_byte(crc, tx.byte_) : crc;
    end
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
    if (begun) i_state : assert (tx.state <= DELIMIT);
  end

  // The receiver is where the transmitter is.
  logic [11:0] sending, code_at;
  framer_pkg::memo_t memo_at;
  assign sending = tx.state == DELIMIT ? tx.place : tx.at;
  assign memo_at = memo[sending];
  assign code_at = sending - 12'(memo_at.distance);
  always_ff @(posedge clk) begin
    if (begun) begin
      i_start : assert (rx.started || (rx.left == 0 && !rx.zero_due && rx.place == 0 && !rx.overlong && rx.crc == START));
      i_room  : assert (rx.place <= 12'(rx.LIMIT) && (!rx.started || !rx.full[rx.writing]));
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
      i_stored : assert (rx.place <= 12'(index) || rx.buffer[{rx.writing, index}] == value);
    end
  end

  // Frames that wait for the reader: of each buffer, whether the transmitter's frame is in it, and what that held.
  logic [1:0]       ours;
  logic [1:0][10:0] ours_length;
  logic [1:0][7:0]  ours_value;
  logic [1:0][3:0]  ours_number;
  logic [3:0]       frames_sent, frames_read;
  logic             arrives;
  assign arrives = out_valid && line && line_ready && tx.state == DELIMIT;
  always_ff @(posedge clk) begin
    if (rx.ends) ours[rx.writing] <= arrives;
    if (arrives) begin
      ours_length[rx.writing] <= 11'(content);
      ours_value[rx.writing]  <= value;
      ours_number[rx.writing] <= frames_sent;
      frames_sent             <= frames_sent + 4'd1;
    end
    if (release_ && ours[rx.reading]) frames_read <= frames_read + 4'd1;
    if (reset) {frames_sent, frames_read} <= '0;
  end

  logic [1:0] waiting;
  assign waiting = rx.full & ours;
  logic [10:0] at;  // the reader's place
  logic        was_noise;
  always_ff @(posedge clk) begin
    was_noise <= noisy;
    if (release_ || reset) at <= '0;
    else if (rx.data_valid && advance) at <= at + 11'd1;
  end
  always_ff @(posedge clk) if (begun) begin
    i_turns   : assert ((rx.reading == rx.writing) == (rx.full == 2'b00 || rx.full == 2'b11));
    i_reading : assert (rx.full == 2'b00 || rx.full[rx.reading]);
    i_at      : assert (rx.at == at + 11'(rx.data_valid) + 11'(rx.fetched_valid));
    i_valid   : assert (rx.full[rx.reading] || !(rx.data_valid || rx.fetched_valid));
    i_first   : assert (!waiting[rx.reading] || ours_number[rx.reading] == frames_read);
    i_second  : assert (waiting != 2'b11 || ours_number[!rx.reading] == frames_read + 4'd1);
    i_only    : assert (rx.full != 2'b11 || waiting[rx.reading] || !waiting[!rx.reading] || ours_number[!rx.reading] == frames_read);
    if (waiting[rx.reading] && index < ours_length[rx.reading] && rx.fetched_valid && at + 11'(rx.data_valid) == index) begin
      i_ahead : assert (rx.fetched == ours_value[rx.reading]);
    end
  end

  for (genvar s = 0; s < 2; s++) begin : g_buffer
    always_ff @(posedge clk) if (begun && waiting[s]) begin
      i_kept : assert (rx.length[s] == ours_length[s] && (index >= ours_length[s] || rx.buffer[{1'(s), index}] == ours_value[s]));
    end
  end

  // What comes of it.
  always_ff @(posedge clk) if (begun) begin
    no_zero_inside  : assert (tx.state != SEND || out_data != 0);
    every_one_taken : assert (!arrives || (rx.started && rx.good));
    none_lost       : assert (frames_sent - frames_read == 4'(waiting[0]) + 4'(waiting[1]));
    none_called_bad : assert (!bad || was_noise);
    if (frame_valid && waiting[rx.reading]) begin
      in_order    : assert (ours_number[rx.reading] == frames_read);
      its_length  : assert (frame_length == ours_length[rx.reading]);
      every_byte  : assert (at != index || index >= frame_length || data == ours_value[rx.reading]);
    end
  end
endmodule
