// The payload of a reply that is neither the request's own bytes nor results: who the board is, what it counts, what it
// took, or the number that goes with a refusal.
module mx_payloads
  import mx_constants::*;
#(
    parameter int ROWS = 2,
    parameter int COLUMNS = 2,
    parameter int GROUP = 8,
    parameter int WORDS = 1024,
    parameter int BLOCKS = 256,
    parameter int HANDLES = 16,
    parameter int CLOCK_HZ = 100_000_000,
    parameter logic [127:0] NAME = "sim"
) (
    input  logic        clk,
    input  logic [15:0] asked,  // one bit a message
    input  logic [31:0] number,
    output logic [47:0][7:0] payload,  // byte 0 leaves first
    // What is counted.
    input  logic        clear,
    input  logic        running,
    input  logic        step_valid,
    input  logic        frame_received,
    input  logic        frame_bad,
    input  logic        frame_sent,
    // From a board's energy meter.
    input  logic [1:0]  energy_source,
    input  logic [7:0]  energy_scope,
    input  logic [31:0] energy_samples,
    input  logic [63:0] energy_microjoules,
    input  logic [63:0] energy_nanoseconds
);
  logic [47:0][7:0] hello, counters, energy;
  mx_hello #(
      .ROWS(ROWS), .COLUMNS(COLUMNS), .GROUP(GROUP), .WORDS(WORDS), .BLOCKS(BLOCKS), .HANDLES(HANDLES),
      .CLOCK_HZ(CLOCK_HZ), .NAME(NAME)
  ) what_this_is (.energy_source, .payload(hello));
  mx_counters counted (
      .clk, .clear, .running, .step_valid, .frame_received, .frame_bad, .frame_sent, .payload(counters)
  );
  assign energy = {
      192'd0, energy_nanoseconds, energy_microjoules, energy_samples, 16'd0, energy_scope, 6'd0, energy_source
  };
  always_comb begin
    unique case (1'b1)
      asked[MESSAGE_HELLO[3:0]]:       payload = hello;
      asked[MESSAGE_COUNTERS[3:0]]:    payload = counters;
      asked[MESSAGE_READ_ENERGY[3:0]]: payload = energy;
      default:                         payload = {352'd0, number};
    endcase
  end
endmodule
