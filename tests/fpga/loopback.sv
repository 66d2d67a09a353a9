// Stands in for the board where only the process around it is tested: sends every byte back after DELAY cycles.
module mx_sim #(
    parameter int ROWS = 2,
    parameter int COLUMNS = 2,
    parameter int DELAY = 100
) (
    input  logic       clk,
    input  logic       rst,
    input  logic [7:0] rx_data,
    input  logic       rx_valid,
    output logic       rx_ready,
    output logic [7:0] tx_data,
    output logic       tx_valid,
    input  logic       tx_ready,
    output logic       idle
);
  logic [15:0] wait_;
  assign rx_ready = !rst && !tx_valid && wait_ == 0;
  assign idle = !tx_valid && wait_ == 0;
  always_ff @(posedge clk) begin
    if (rst) begin
      tx_valid <= 1'b0;
      wait_ <= '0;
    end else begin
      if (wait_ != 0) begin
        wait_ <= wait_ - 1'b1;
        if (wait_ == 1) tx_valid <= 1'b1;
      end
      if (tx_valid && tx_ready) tx_valid <= 1'b0;
      if (rx_valid && rx_ready) begin
        tx_data <= rx_data;
        wait_ <= 16'(DELAY);
      end
    end
  end
endmodule
