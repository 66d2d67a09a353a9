// A board of your own: copy this folder, give the module its pins, and follow docs/fpga.md, "Your own board".
//
// What a top has to do: make a clock and a reset, choose the sizes that fit the device, connect the link. A serial line needs
// mx_board; anything else that moves bytes (a USB FIFO, Ethernet, PCIe) connects to mx_core's two streams instead.
module template_board (
    input  logic clk,      // CLOCK_HZ exactly: the baud rate and the host's seconds follow from it
    input  logic reset_n,
    input  logic rx,
    output logic tx,
    output logic busy
);
  localparam int CLOCK_HZ = 50_000_000;

  logic [2:0] settled;
  logic       idle;
  always_ff @(posedge clk) settled <= {settled[1:0], !reset_n};
  assign busy = !idle;

  mx_board #(
      // 32 * ROWS * COLUMNS multipliers of 18 x 18 bits; 1, 2 or 4 rows.
      .ROWS(1), .COLUMNS(1),
      // 32 * ROWS bytes of element memory and 2 * ROWS bytes of scale memory each; a power of two.
      .WORDS(1024),
      .BLOCKS(256), .HANDLES(16), .CLOCK_HZ(CLOCK_HZ), .BAUD(1_000_000), .NAME("template")
  ) board (
      .clk, .reset(settled[2]), .rx, .tx, .idle,
      // A meter on the rail would put its running totals here and say 1, measured; without one the source stays 0, none.
      .energy_source(2'd0), .energy_scope(8'd0), .energy_samples(32'd0), .energy_microjoules(64'd0),
      .energy_nanoseconds(64'd0)
  );
endmodule
