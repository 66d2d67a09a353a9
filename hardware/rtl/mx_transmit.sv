// Frames to a byte stream: CRC appended, COBS done in a buffer that holds the whole frame, then sent.
module mx_transmit
  import mx_constants::*;
  import mx_crc32::*;
(
    input  logic       clk,
    input  logic       reset,
    output logic       idle,       // a frame may start
    input  logic       start,
    input  logic       in_valid,
    output logic       in_ready,
    input  logic [7:0] in_data,
    input  logic       finish,     // after the last byte
    output logic       sent,       // a frame has left

    output logic       out_valid,
    input  logic       out_ready,
    output logic [7:0] out_data
);
  typedef enum logic [2:0] {IDLE, FILL, CRC, CLOSE, FETCH, SEND, DELIMIT} state_t;
  state_t state;
  logic [7:0]  buffer[4096];
  logic [11:0] place, code_place, at;
  logic [7:0]  code;
  logic        full_run;  // the run has its 254 bytes: its code is written in a cycle of its own
  logic [31:0] crc;
  logic [1:0]  crc_byte_number;

  logic       take, write;
  logic [7:0] byte_, written;
  logic [11:0] write_at;
  assign idle     = state == IDLE;
  assign in_ready = state == FILL && !full_run;
  assign byte_    = state == CRC ? ~crc[7:0] : in_data;
  assign take     = !full_run && ((state == FILL && in_valid) || state == CRC);
  assign write    = take || full_run || state == CLOSE;
  // A zero byte is not stored: its place is the next run's code, and the code of the run that it ends is known now.
  assign write_at = (full_run || state == CLOSE || byte_ == 0) ? code_place : place;
  assign written  = (full_run || state == CLOSE || byte_ == 0) ? code : byte_;

  always_ff @(posedge clk) begin
    sent <= 1'b0;
    if (take && byte_ != 0) begin
      place    <= place + 12'd1;
      code     <= code + 8'd1;
      full_run <= code == 8'd254;
    end else if (take || full_run) begin
      code_place <= place;
      place      <= place + 12'd1;
      code       <= 8'd1;
      full_run   <= 1'b0;
    end
    unique case (state)
      IDLE: if (start) begin
        state      <= FILL;
        place      <= 12'd1;
        code_place <= 12'd0;
        code       <= 8'd1;
        full_run   <= 1'b0;
        crc        <= START;
        crc_byte_number <= 2'd0;
      end
      FILL: begin
        if (take) crc <= crc_byte(crc, in_data);
        if (finish) state <= CRC;
      end
      CRC: if (take) begin
        crc <= {8'hff, crc[31:8]};
        crc_byte_number <= crc_byte_number + 2'd1;
        if (&crc_byte_number) state <= CLOSE;
      end
      CLOSE: if (!full_run) begin
        state <= FETCH;
        at <= 12'd0;
      end
      FETCH: state <= SEND;
      SEND: if (out_ready) begin
        at <= at + 12'd1;
        if (at + 12'd1 == place) state <= DELIMIT;
      end
      DELIMIT: if (out_ready) begin
        state <= IDLE;
        sent  <= 1'b1;
      end
      default: state <= IDLE;
    endcase
    if (reset) state <= IDLE;
  end

  logic [7:0] fetched;
  always_ff @(posedge clk) begin
    if (write) buffer[write_at] <= written;
    fetched <= buffer[(state == SEND && out_ready) ? at + 12'd1 : at];
  end
  assign out_valid = state == SEND || state == DELIMIT;
  assign out_data  = state == DELIMIT ? 8'd0 : fetched;
endmodule
