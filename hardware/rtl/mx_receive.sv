// Frames from a byte stream: COBS undone, CRC checked, content kept in one of two buffers until it is released. While
// both are full no byte is taken. What is no frame only makes `bad` rise for a cycle.
module mx_receive
  import mx_constants::*;
  import mx_crc32::*;
(
    input  logic        clk,
    input  logic        reset,
    input  logic        in_valid,
    output logic        in_ready,
    input  logic [7:0]  in_data,

    output logic        frame_valid,
    output logic [10:0] frame_length,  // bytes of content, at least those of a header
    output logic [7:0]  data,          // the byte under the reader's place
    input  logic        advance,       // to the next place
    input  logic        release_,      // done with the frame
    output logic        bad,
    output logic        pending        // a frame, or the news of a bad one, is still to be dealt with
);
  localparam int CRC_BYTES = 4;
  localparam int LIMIT = MAX_CONTENT + CRC_BYTES;  // 2048: a buffer

  logic [7:0]  buffer[2*LIMIT];
  logic [1:0]  full;
  logic [1:0][10:0] length;
  logic        writing, reading;

  // Undo COBS: a run's code byte stands for the zero that ended the run before.
  logic [11:0] place;
  logic [7:0]  left;
  logic        zero_due, started, overlong;
  logic [31:0] crc;
  logic        take, store, ends, good;
  logic [7:0]  stored;
  assign in_ready = !full[writing];
  assign take     = in_valid && in_ready;
  assign ends     = take && in_data == 0;
  assign store    = take && in_data != 0 && (left != 0 || zero_due);
  assign stored   = left != 0 ? in_data : 8'd0;
  assign good     = left == 0 && !overlong && crc == RESIDUE && place >= 12'(HEADER_BYTES + CRC_BYTES);

  always_ff @(posedge clk) begin
    bad <= 1'b0;
    if (take && in_data != 0) begin
      started <= 1'b1;
      if (left != 0) left <= left - 8'd1;
      else begin
        left     <= in_data - 8'd1;
        zero_due <= in_data != 8'hff;
      end
    end
    if (store) begin
      if (place == 12'(LIMIT)) overlong <= 1'b1;
      else place <= place + 12'd1;
      crc <= crc_byte(crc, stored);
    end
    if (ends) begin
      if (started && good) begin
        full[writing]   <= 1'b1;
        length[writing] <= 11'(place - 12'(CRC_BYTES));
        writing         <= !writing;
      end else bad <= started;
    end
    if (ends || reset) begin
      place    <= '0;
      left     <= '0;
      zero_due <= 1'b0;
      started  <= 1'b0;
      overlong <= 1'b0;
      crc      <= START;
    end
    if (release_) begin
      full[reading] <= 1'b0;
      reading       <= !reading;
    end
    if (reset) begin
      full    <= '0;
      writing <= 1'b0;
      reading <= 1'b0;
      bad     <= 1'b0;
    end
  end

  always_ff @(posedge clk) begin
    if (store && !place[11]) buffer[{writing, place[10:0]}] <= stored;
  end

  // Block RAM answers late in its cycle: a byte waits in `fetched` before it is `data`, so one can be read in every cycle.
  logic [10:0] at;
  logic [7:0]  fetched;
  logic        fetched_valid, data_valid, fetch, move;
  assign move  = fetched_valid && (!data_valid || advance);
  assign fetch = full[reading] && (!fetched_valid || move);
  always_ff @(posedge clk) begin
    if (fetch) begin
      fetched <= buffer[{reading, at}];
      at      <= at + 11'd1;
    end
    if (move) data <= fetched;
    fetched_valid <= fetch || (fetched_valid && !move);
    data_valid    <= move || (data_valid && !advance);
    if (release_ || reset) begin
      at            <= '0;
      fetched_valid <= 1'b0;
      data_valid    <= 1'b0;
    end
  end
  assign frame_valid  = full[reading] && data_valid;
  assign frame_length = length[reading];
  assign pending      = full != 0 || bad;
endmodule
