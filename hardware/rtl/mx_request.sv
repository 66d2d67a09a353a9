// Reads a request's header and arguments, a byte a cycle, and counts what is left of its payload.
module mx_request
  import mx_constants::*;
(
    input  logic        clk,
    input  logic        start,         // a frame lies ready
    input  logic        start_bad,     // no frame, but one that was damaged is to be reported
    input  logic [10:0] frame_length,
    input  logic [7:0]  data,
    input  logic        reading,       // from the cycle after `start` until `done`
    output logic        done,          // in the last cycle of reading
    output logic        too_short,     // with `done`: the payload is shorter than the arguments
    input  logic        data_moves,    // later: a byte of the payload is used up
    output logic [7:0]  message,
    output logic [15:0] sequence_,
    output logic [23:0][7:0] arguments,  // the last byte read lies highest
    output logic [10:0] payload_left
);
  logic [4:0] arguments_left, wanted;
  logic [1:0] header_left;
  logic       in_header, header_ends;
  always_comb begin
    unique case (message)
      MESSAGE_LOAD_BEGIN:  wanted = 5'd24;
      MESSAGE_LOAD_CHUNK:  wanted = 5'd8;
      MESSAGE_LOAD_COMMIT: wanted = 5'd1;
      MESSAGE_FREE:        wanted = 5'd1;
      MESSAGE_ACTIVATIONS: wanted = 5'd12;
      MESSAGE_RUN:         wanted = 5'd8;
      default:             wanted = 5'd0;
    endcase
  end
  assign header_ends = in_header && header_left == 2'd0;
  assign too_short   = header_ends && payload_left < 11'(wanted);
  assign done        = reading && (header_ends ? too_short || wanted == 0 : !in_header && arguments_left == 5'd1);

  always_ff @(posedge clk) begin
    if (reading && in_header) begin
      header_left <= header_left - 2'd1;
      unique case (header_left)
        2'd3: message <= data;
        2'd1: sequence_[7:0] <= data;
        2'd0: sequence_[15:8] <= data;
        default: ;
      endcase
      arguments_left <= wanted;
      if (header_ends) in_header <= 1'b0;
    end
    if (reading && !in_header) begin
      arguments      <= {data, arguments[23:1]};
      arguments_left <= arguments_left - 5'd1;
    end
    if ((reading && !in_header) || data_moves) payload_left <= payload_left - 11'd1;
    if (start) begin
      in_header    <= 1'b1;
      header_left  <= 2'd3;
      payload_left <= frame_length - 11'(HEADER_BYTES);
    end
    if (start_bad) begin
      message   <= MESSAGE_BAD_FRAME;
      sequence_ <= '0;
    end
  end
endmodule
