// What follows from a request's arguments alone, a cycle after them: shapes, sizes and lengths.
module mx_checks
  import mx_constants::*;
#(
    parameter int ROWS = 2,
    parameter int COLUMNS = 2,
    parameter int GROUP = 8,
    parameter int WORDS = 1024,
    parameter int BLOCKS = 256
) (
    input  logic        clk,
    // A weight.
    input  logic [7:0]  weight_format,
    input  logic [15:0] weight_blocks,
    input  logic [15:0] weight_groups,
    input  logic [31:0] element_base,
    input  logic [31:0] element_bytes,
    input  logic [31:0] scale_base,
    input  logic [31:0] scale_bytes,
    output logic        weight_fits,   // within the memories, and aligned
    output logic        weight_shaped,
    // Activations.
    input  logic [7:0]  x_format,
    input  logic [15:0] x_blocks,
    input  logic [7:0]  x_tokens,
    output logic        x_shaped,
    output logic [31:0] x_token_bytes,
    // A run.
    input  logic [15:0] run_count,
    input  logic [3:0]  run_tokens,
    output logic [31:0] run_bytes      // all ones: more than a reply holds
);
  localparam int WORD_SHIFT = $clog2(ROWS * 32);
  logic [32:0] element_end, scale_end;
  assign element_end = {1'b0, element_base} + {1'b0, element_bytes};
  assign scale_end   = {1'b0, scale_base} + {1'b0, scale_bytes};

  function automatic logic shaped(input logic [7:0] format, input logic [15:0] blocks);
    return format < 8'(FORMATS) && blocks != 0 && blocks <= 16'(BLOCKS);
  endfunction

  always_ff @(posedge clk) begin
    weight_fits   <= element_end <= 33'(32 * ROWS * WORDS) && scale_end <= 33'(2 * ROWS * WORDS)
                     && element_base[WORD_SHIFT-1:0] == 0 && element_bytes[WORD_SHIFT-1:0] == 0
                     && (scale_base & 32'(ROWS - 1)) == 0 && (scale_bytes & 32'(ROWS - 1)) == 0;
    weight_shaped <= shaped(weight_format, weight_blocks) && weight_groups != 0;
    x_shaped      <= shaped(x_format, x_blocks) && x_tokens != 0 && x_tokens <= 8'(COLUMNS);
    x_token_bytes <= (FORMAT_BITS[x_format[2:0]] == 4) ? {12'd0, x_blocks, 4'd0} + 32'(x_blocks)
                     : (FORMAT_BITS[x_format[2:0]] == 6) ? {12'd0, x_blocks, 4'd0} + {13'd0, x_blocks, 3'd0} + 32'(x_blocks)
                     : {11'd0, x_blocks, 5'd0} + 32'(x_blocks);
    // Six bits of the count are enough to see that it is too much; more would take a DSP block.
    run_bytes     <= (|run_count[15:6]) ? '1 : 32'(10'(run_count[5:0]) * 10'(run_tokens)) * 32'(4 * ROWS * GROUP);
  end
endmodule
