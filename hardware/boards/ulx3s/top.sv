// ULX3S with an LFE5U-85F: a 2 x 1 tile, 256 KiB of block RAM for elements and 16 KiB for scales, behind the USB serial port.
//
// The names of the pins are those of ulx3s.lpf: "rx" and "tx" are the board's, seen from the FPGA.
module ulx3s (
    input  logic       clk_25mhz,
    input  logic       button_fire,  // resets the core
    input  logic       rx,
    output logic       tx,
    output logic [7:0] led,
    output logic       wifi_gpio0
);
  localparam int CLOCK_HZ = 62_500_000;
  localparam int BAUD = 3_000_000;

  // 25 MHz / 2 * 5; the oscillator inside runs at 10 times that, 625 MHz, within its 400..800.
  localparam int OSCILLATOR = 10;
  logic clk, locked;
  EHXPLLL #(
      .CLKI_DIV(2), .CLKFB_DIV(5), .CLKOP_DIV(OSCILLATOR), .CLKOP_CPHASE(OSCILLATOR - 1), .CLKOP_FPHASE(0),
      .CLKOP_ENABLE("ENABLED"), .FEEDBK_PATH("CLKOP"), .OUTDIVIDER_MUXA("DIVA")
  ) pll (
      .CLKI(clk_25mhz), .CLKFB(clk), .CLKOP(clk), .LOCK(locked), .RST(1'b0), .STDBY(1'b0), .PHASESEL0(1'b0),
      .PHASESEL1(1'b0), .PHASEDIR(1'b1), .PHASESTEP(1'b1), .PHASELOADREG(1'b1), .PLLWAKESYNC(1'b0), .ENCLKOP(1'b0)
  );

  // Reset until the clock has been steady for a while, and while the button is held.
  logic [15:0] steady = '0;
  logic [2:0]  button;
  logic        reset = 1'b1;
  always_ff @(posedge clk) begin
    button <= {button[1:0], button_fire};
    if (!locked || button[2]) steady <= '0;
    else if (!(&steady)) steady <= steady + 16'd1;
    reset <= !(&steady);
  end

  logic idle;
  mx_board #(
      .ROWS(2), .COLUMNS(1), .WORDS(4096), .BLOCKS(256), .HANDLES(32), .CLOCK_HZ(CLOCK_HZ), .BAUD(BAUD), .NAME("ULX3S-85F")
  ) board (
      .clk, .reset, .rx, .tx, .idle,
      // No energy meter on this board; an external one would drive these.
      .energy_source(2'd0), .energy_scope(8'd0), .energy_samples(32'd0), .energy_microjoules(64'd0),
      .energy_nanoseconds(64'd0)
  );
  assign led        = {5'd0, reset, !idle, locked};
  assign wifi_gpio0 = 1'b1;  // low would let the ESP32 take the board over
endmodule
