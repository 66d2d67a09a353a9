// The top of the simulation: the board's core, byte by byte.
module mx_sim #(
    parameter int ROWS = 2,
    parameter int COLUMNS = 2,
    parameter int WORDS = 131072,  // 8 MiB of elements: a 4864 x 896 projection in MXFP8 twice
    parameter int BLOCKS = 256,
    parameter int HANDLES = 64,
    parameter int CLOCK_HZ = 100_000_000,
    parameter logic [127:0] NAME = "sim"
) (
    input  logic        clk,
    input  logic        reset,
    input  logic        in_valid,
    output logic        in_ready,
    input  logic [7:0]  in_data,
    output logic        out_valid,
    input  logic        out_ready,
    output logic [7:0]  out_data,
    output logic        idle,
    input  logic [1:0]  energy_source,
    input  logic [31:0] energy_samples,
    input  logic [63:0] energy_microjoules,
    input  logic [63:0] energy_nanoseconds
);
  mx_core #(
      .ROWS(ROWS), .COLUMNS(COLUMNS), .WORDS(WORDS), .BLOCKS(BLOCKS), .HANDLES(HANDLES), .CLOCK_HZ(CLOCK_HZ),
      .NAME(NAME)
  ) core (
      .clk, .reset, .in_valid, .in_ready, .in_data, .out_valid, .out_ready, .out_data, .idle, .energy_source,
      .energy_scope(8'd1), .energy_samples, .energy_microjoules, .energy_nanoseconds
  );
endmodule
