// Bytes to and from a serial line: eight bits, no parity, one stop bit; `DIVIDER` cycles a bit, at least 4.
module mx_uart #(
    parameter int DIVIDER = 8
) (
    input  logic       clk,
    input  logic       reset,
    input  logic       rx,
    output logic       tx,
    output logic       in_valid,   // a byte came; who does not take it loses it
    output logic [7:0] in_data,
    input  logic       out_valid,
    output logic       out_ready,
    input  logic [7:0] out_data
);
  localparam int BITS = $clog2(DIVIDER + DIVIDER / 2);
  localparam logic [BITS-1:0] WHOLE = BITS'(DIVIDER - 1), LATER = BITS'(DIVIDER + DIVIDER / 2 - 2);

  // Receiving: three registers keep an unsettled level away; the first bit is read one and a half bits after the edge.
  logic [2:0]      line;
  logic [BITS-1:0] rx_wait;
  logic [3:0]      rx_left;
  logic [7:0]      rx_bits;
  always_ff @(posedge clk) begin
    line     <= {line[1:0], rx};
    in_valid <= 1'b0;
    if (rx_left == 0) begin
      if (!line[2]) begin
        rx_left <= 4'd9;
        rx_wait <= LATER;
      end
    end else if (rx_wait != 0) rx_wait <= rx_wait - 1'b1;
    else begin
      rx_wait <= WHOLE;
      rx_left <= rx_left - 4'd1;
      if (rx_left != 4'd1) rx_bits <= {line[2], rx_bits[7:1]};
      else begin
        // The stop bit; without one it was no byte.
        in_valid <= line[2];
        in_data  <= rx_bits;
      end
    end
    if (reset) begin
      line    <= '1;
      rx_left <= '0;
    end
  end

  // Sending.
  logic [BITS-1:0] tx_wait;
  logic [3:0]      tx_left;
  logic [9:0]      tx_bits;
  assign out_ready = tx_left == 0;
  assign tx = tx_bits[0];
  always_ff @(posedge clk) begin
    if (tx_left == 0) begin
      if (out_valid) begin
        tx_bits <= {1'b1, out_data, 1'b0};
        tx_left <= 4'd10;
        tx_wait <= WHOLE;
      end
    end else if (tx_wait != 0) tx_wait <= tx_wait - 1'b1;
    else begin
      tx_wait <= WHOLE;
      tx_left <= tx_left - 4'd1;
      tx_bits <= {1'b1, tx_bits[9:1]};
    end
    if (reset) begin
      tx_left <= '0;
      tx_bits <= '1;
    end
  end
endmodule
