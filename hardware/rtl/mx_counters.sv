// What the board counts since its reset, as COUNTERS answers it: six u64, the first one lowest.
module mx_counters (
    input  logic             clk,
    input  logic             clear,
    input  logic             running,
    input  logic             step_valid,
    input  logic             frame_received,
    input  logic             frame_bad,
    input  logic             frame_sent,
    output logic [47:0][7:0] payload
);
  // 48 bits of cycles last a month at 100 MHz.
  logic [47:0] cycles, busy_cycles, passes;
  logic [31:0] frames_received, frames_bad, frames_sent;
  always_ff @(posedge clk) begin
    cycles          <= cycles + 48'd1;
    busy_cycles     <= busy_cycles + 48'(running);
    passes          <= passes + 48'(step_valid);
    frames_received <= frames_received + 32'(frame_received);
    frames_bad      <= frames_bad + 32'(frame_bad);
    frames_sent     <= frames_sent + 32'(frame_sent);
    if (clear) {cycles, busy_cycles, passes, frames_received, frames_bad, frames_sent} <= '0;
  end
  assign payload = {
      64'(frames_sent), 64'(frames_bad), 64'(frames_received), 64'(passes), 64'(busy_cycles), 64'(cycles)
  };
endmodule
