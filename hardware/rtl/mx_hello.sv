// HELLO's payload: what this board is. docs/fpga.md, "Protocol".
module mx_hello
  import mx_constants::*;
#(
    parameter int ROWS = 2,
    parameter int COLUMNS = 2,
    parameter int GROUP = 8,
    parameter int WORDS = 1024,
    parameter int BLOCKS = 256,
    parameter int HANDLES = 16,
    parameter int CLOCK_HZ = 100_000_000,
    parameter logic [127:0] NAME = "sim"  // the first character highest, zeros in front
) (
    input  logic [1:0]       energy_source,
    output logic [47:0][7:0] payload        // byte 0 leaves first
);
  localparam logic [7:0] LANES = 8'd32, CREDITS = 8'd2;

  // Its first character highest: a string parameter carries its zeros in front.
  function automatic logic [127:0] left_aligned(input logic [127:0] text);
    logic [127:0] t;
    t = text;
    for (int i = 0; i < 16; i++) if (t[127:120] == 0) t = t << 8;
    return t;
  endfunction
  localparam logic [127:0] ALIGNED_NAME = left_aligned(NAME);

  logic [15:0][7:0] name;
  for (genvar i = 0; i < 16; i++) begin : g_name
    assign name[i] = ALIGNED_NAME[127-8*i-:8];
  end
  assign payload = {
      name, 32'(CLOCK_HZ), 32'(2 * ROWS * WORDS), 32'(32 * ROWS * WORDS), 6'd0, energy_source, CREDITS, 16'(MAX_PAYLOAD),
      16'(BLOCKS), 16'(HANDLES), 8'(GROUP), 8'(COLUMNS), 8'(ROWS), LANES, 16'((1 << FORMATS) - 1),
      VERSION_MINOR, VERSION_MAJOR, MAGIC
  };
endmodule
