// Results wait here, two groups at most, and leave as bytes: turn, row unit, token. Only the first `tokens` columns leave.
module mx_results #(
    parameter int ROWS = 2,
    parameter int COLUMNS = 2
) (
    input  logic       clk,
    input  logic       reset,
    input  logic [3:0] tokens,
    input  logic       result_valid,
    input  logic [ROWS-1:0][COLUMNS-1:0][31:0] result,
    output logic       group_left,
    output logic       out_valid,
    input  logic       out_ready,
    output logic [7:0] out_data
);
  localparam int VALUES = ROWS * COLUMNS;
  logic [VALUES-1:0][31:0] queue[16];
  logic [3:0] written, read;
  logic [VALUES-1:0][31:0] leaving;
  logic       loaded;
  logic [$clog2(ROWS)+0:0] row;
  logic [3:0] token;
  logic [1:0] byte_;

  logic load, last_value;
  assign last_value = row == ($clog2(ROWS) + 1)'(ROWS - 1) && token + 4'd1 == tokens;
  assign load       = read != written && (!loaded || (out_ready && &byte_ && last_value));
  assign out_valid  = loaded;
  always_ff @(posedge clk) begin
    group_left <= 1'b0;
    if (result_valid) begin
      queue[written] <= result;
      written        <= written + 4'd1;
    end
    if (loaded && out_ready) begin
      byte_ <= byte_ + 2'd1;
      if (&byte_) begin
        token <= token + 4'd1;
        if (token + 4'd1 == tokens) begin
          token <= '0;
          row   <= row + 1'b1;
        end
        if (last_value) begin
          loaded <= 1'b0;
          row    <= '0;
        end
      end
    end
    if (load) begin
      leaving    <= queue[read];
      loaded     <= 1'b1;
      read       <= read + 4'd1;
      group_left <= &read[2:0];
    end
    if (reset) begin
      written <= '0;
      read    <= '0;
      loaded  <= 1'b0;
      row     <= '0;
      token   <= '0;
      byte_   <= '0;
    end
  end
  logic [31:0] value;
  assign value    = leaving[int'(row) * COLUMNS + int'(token)];
  assign out_data = value[8*byte_+:8];
endmodule
