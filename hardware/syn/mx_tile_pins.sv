// A tile that fits a package: inputs come from a chain of registers, results leave through another. For place and route
// of the tile alone; both chains are registers without logic on the tile's inputs, and one multiplexer behind its outputs.
module mx_tile_pins
  import mx_types::*;
#(
    parameter int ROWS = 1,
    parameter int COLUMNS = 1
) (
    input  logic clk,
    input  logic in,
    output logic out
);
  typedef struct packed {
    logic [2:0] w_format;
    logic [2:0] x_format;
    step_t      step;
    logic [ROWS-1:0][31:0][7:0] w_code;
    logic [ROWS-1:0][7:0] w_scale;
    logic [COLUMNS-1:0][7:0] x_scale;
    logic       next_valid;
    logic [COLUMNS-1:0][3:0][7:0] next_code;
  } inputs_t;
  inputs_t inputs;
  logic    result_valid;
  logic [ROWS*COLUMNS*32-1:0] result, leaving;

  mx_tile #(.ROWS(ROWS), .COLUMNS(COLUMNS)) tile (
      .clk, .w_format(inputs.w_format), .x_format(inputs.x_format), .step(inputs.step), .w_code(inputs.w_code),
      .w_scale(inputs.w_scale), .x_scale(inputs.x_scale), .next_valid(inputs.next_valid),
      .next_code(inputs.next_code), .result_valid, .result
  );
  always_ff @(posedge clk) begin
    inputs  <= {inputs[$bits(inputs_t)-2:0], in};
    leaving <= result_valid ? result : leaving >> 1;
    out     <= leaving[0];
  end
endmodule
