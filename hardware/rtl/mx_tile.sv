// ROWS x COLUMNS dot units. Weight decoders are shared by the units of a row, activations by those of a column. While a
// block is multiplied, the next block's activations come in, four codes of each token at a turn, so four decoders a
// column suffice.
//
// A step and its codes enter together; its activations are those of the eight `next_valid` cycles before new_block.
// Results leave 30 cycles after the step, turn by turn.
module mx_tile
  import mx_types::*;
  import mx_constants::*;
#(
    parameter int ROWS = 2,
    parameter int COLUMNS = 2,
    parameter int LANES = 32
) (
    input  logic        clk,
    input  logic [2:0]  w_format,
    input  logic [2:0]  x_format,
    input  step_t       step,
    input  logic [ROWS-1:0][LANES-1:0][7:0] w_code,
    input  logic [ROWS-1:0][7:0] w_scale,
    input  logic [COLUMNS-1:0][7:0] x_scale,
    input  logic        next_valid,
    input  logic [COLUMNS-1:0][LANES/8-1:0][7:0] next_code,
    output logic        result_valid,
    output logic [ROWS-1:0][COLUMNS-1:0][31:0] result
);
  localparam int PART = LANES / 8;

  fields_t w_fields, x_fields;
  logic signed [7:0] units;
  always_ff @(posedge clk) begin
    w_fields <= fields_of(w_format);
    x_fields <= fields_of(x_format);
    units    <= FORMAT_UNIT[w_format] + FORMAT_UNIT[x_format];
  end

  step_t step3, step4, step5;
  mx_delay #(.WIDTH($bits(step_t)), .DEPTH(3)) delay_step (.clk, .in(step), .out({step3}));
  always_ff @(posedge clk) begin
    step4 <= step3;
    step5 <= step4;
  end

  // Weights: they wait a cycle for the activations and are decoded in three, then the digit of this pass is let through.
  element_t w[ROWS][LANES];
  for (genvar r = 0; r < ROWS; r++) begin : g_row
    for (genvar i = 0; i < LANES; i++) begin : g_lane
      element_t decoded;
      logic [7:0] code1;
      mx_decode decode (.clk, .fields(w_fields), .code(code1), .element(decoded));
      always_ff @(posedge clk) begin
        code1 <= w_code[r][i];
        w[r][i] <= decoded;
        if (decoded.high != step4.w_high) w[r][i].magnitude <= '0;
      end
    end
  end

  // Activations: decoded parts move through `incoming`; a new block moves to `held`, a pass's digit to x.
  logic next_valid3;
  mx_delay #(.WIDTH(1), .DEPTH(3)) delay_next (.clk, .in(next_valid), .out(next_valid3));
  element_t x[COLUMNS][LANES];
  for (genvar c = 0; c < COLUMNS; c++) begin : g_column
    element_t decoded[PART];
    element_t incoming[LANES];
    element_t held[LANES];
    for (genvar i = 0; i < PART; i++) begin : g_part
      mx_decode decode (.clk, .fields(x_fields), .code(next_code[c][i]), .element(decoded[i]));
    end
    for (genvar i = 0; i < LANES; i++) begin : g_lane
      always_ff @(posedge clk) begin
        if (next_valid3) incoming[i] <= i < LANES - PART ? incoming[i+PART < LANES ? i+PART : i] : decoded[i % PART];
        if (step3.new_block) held[i] <= incoming[i];
        x[c][i] <= held[i];
        if (held[i].high != step4.x_high) x[c][i].magnitude <= '0;
      end
    end
  end

  // Scales: exponent = 127 + 69 + codes + units - 254.
  logic [ROWS-1:0][7:0]    w_scale1;
  logic [COLUMNS-1:0][7:0] x_scale1;
  always_ff @(posedge clk) begin
    w_scale1 <= w_scale;
    x_scale1 <= x_scale;
  end

  logic [ROWS-1:0][COLUMNS-1:0] valid;
  for (genvar r = 0; r < ROWS; r++) begin : g_unit_row
    for (genvar c = 0; c < COLUMNS; c++) begin : g_unit
      logic signed [10:0] exponent2, exponent3, exponent5;
      logic               nan2, nan3, nan5;
      always_ff @(posedge clk) begin
        exponent2 <= 11'({3'd0, w_scale1[r]}) + 11'({3'd0, x_scale1[c]});
        nan2 <= w_scale1[r] == 8'hff || x_scale1[c] == 8'hff;
        exponent3 <= exponent2 + 11'(units) - 11'sd58;
        nan3 <= nan2;
      end
      mx_delay #(.WIDTH(12), .DEPTH(2)) delay_exponent (.clk, .in({exponent3, nan3}), .out({exponent5, nan5}));
      mx_unit #(.LANES(LANES)) unit (
          .clk, .step(step5), .w(w[r]), .x(x[c]), .exponent(exponent5), .scale_is_nan(nan5),
          .result_valid(valid[r][c]), .result(result[r][c])
      );
    end
  end
  assign result_valid = valid[0][0];
endmodule
