// A board whose link is a serial line: the core behind a UART.
module mx_board #(
    parameter int ROWS = 2,
    parameter int COLUMNS = 2,
    parameter int WORDS = 1024,
    parameter int BLOCKS = 256,
    parameter int HANDLES = 16,
    parameter int CLOCK_HZ = 100_000_000,
    parameter int BAUD = 3_000_000,
    parameter logic [127:0] NAME = "board"
) (
    input  logic clk,
    input  logic reset,
    input  logic rx,
    output logic tx,
    output logic idle,
    input  logic [1:0]  energy_source,
    input  logic [7:0]  energy_scope,
    input  logic [31:0] energy_samples,
    input  logic [63:0] energy_microjoules,
    input  logic [63:0] energy_nanoseconds
);
  logic       in_valid, in_ready, out_valid, out_ready;
  logic [7:0] in_data, out_data;
  mx_uart #(.DIVIDER((CLOCK_HZ + BAUD / 2) / BAUD)) uart (
      .clk, .reset, .rx, .tx, .in_valid, .in_data, .out_valid, .out_ready, .out_data
  );
  // A serial line cannot wait: a byte that comes while both buffers are full is lost, and the frame's CRC will say so.
  logic unused;
  assign unused = in_ready;
  mx_core #(
      .ROWS(ROWS), .COLUMNS(COLUMNS), .WORDS(WORDS), .BLOCKS(BLOCKS), .HANDLES(HANDLES), .CLOCK_HZ(CLOCK_HZ), .NAME(NAME)
  ) core (
      .clk, .reset, .in_valid, .in_ready, .in_data, .out_valid, .out_ready, .out_data, .idle, .energy_source,
      .energy_scope, .energy_samples, .energy_microjoules, .energy_nanoseconds
  );
endmodule
