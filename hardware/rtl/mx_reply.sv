// Sends a reply while `active`: four bytes of header, then the payload, the request's own bytes (PING) or results (RUN).
module mx_reply
  import mx_constants::*;
(
    input  logic        clk,
    input  logic        reset,
    input  logic        active,
    output logic        done,            // in the reply's last cycle
    // What stays while it is active.
    input  logic [7:0]  message,
    input  logic [15:0] asked,  // one bit a message
    input  logic [7:0]  status,
    input  logic [15:0] sequence_,
    input  logic [47:0][7:0] payload,    // byte 0 leaves first; read in the first cycle
    input  logic [5:0]  payload_bytes,
    // The request's bytes, for PING.
    input  logic        echo_valid,
    input  logic [7:0]  echo_data,
    output logic        echo_moves,
    // Results, for RUN.
    input  logic [15:0] result_bytes,
    input  logic        result_valid,
    output logic        result_ready,
    input  logic [7:0]  result_data,
    // To mx_transmit.
    input  logic        tx_idle,
    output logic        tx_start,
    output logic        tx_valid,
    input  logic        tx_ready,
    output logic [7:0]  tx_data,
    output logic        tx_finish
);
  typedef enum logic [2:0] {OPEN, HEAD, PAYLOAD, ECHO, RESULTS, FINISH} state_t;
  state_t           state;
  logic [1:0]       head_at;
  logic [5:0]       payload_left;
  logic [47:0][7:0] leaving;
  logic [15:0]      result_bytes_left;

  always_comb begin
    tx_valid = 1'b0;
    tx_data  = 8'd0;
    unique case (state)
      HEAD: begin
        tx_valid = 1'b1;
        unique case (head_at)
          2'd0:    tx_data = message | REPLY;
          2'd1:    tx_data = status;
          2'd2:    tx_data = sequence_[7:0];
          default: tx_data = sequence_[15:8];
        endcase
      end
      PAYLOAD: begin
        tx_valid = payload_left != 0;
        tx_data  = leaving[0];
      end
      ECHO: begin
        tx_valid = echo_valid;
        tx_data  = echo_data;
      end
      RESULTS: begin
        tx_valid = result_valid && result_bytes_left != 0;
        tx_data  = result_data;
      end
      default: ;
    endcase
  end
  assign tx_start     = active && state == OPEN && tx_idle;
  assign tx_finish    = state == FINISH;
  assign done         = state == FINISH;
  assign echo_moves   = state == ECHO && echo_valid && tx_ready;
  assign result_ready = state == RESULTS && tx_ready;

  always_ff @(posedge clk) begin
    unique case (state)
      OPEN: begin
        head_at           <= '0;
        leaving           <= payload;
        payload_left      <= payload_bytes;
        result_bytes_left <= result_bytes;
        if (tx_start) state <= HEAD;
      end
      HEAD: if (tx_ready) begin
        head_at <= head_at + 2'd1;
        if (&head_at) begin
          if (asked[MESSAGE_PING[3:0]] && status == STATUS_OK) state <= ECHO;
          else if (asked[MESSAGE_RUN[3:0]] && status == STATUS_OK) state <= RESULTS;
          else state <= PAYLOAD;
        end
      end
      PAYLOAD:
        if (payload_left == 0) state <= FINISH;
        else if (tx_ready) begin
          leaving      <= leaving >> 8;
          payload_left <= payload_left - 6'd1;
        end
      ECHO: if (!echo_valid) state <= FINISH;
      RESULTS:
        if (result_bytes_left == 0) state <= FINISH;
        else if (tx_ready && result_valid) result_bytes_left <= result_bytes_left - 16'd1;
      FINISH: state <= OPEN;
      default: state <= OPEN;
    endcase
    if (reset) state <= OPEN;
  end
endmodule
