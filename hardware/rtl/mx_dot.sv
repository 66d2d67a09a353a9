// A dot unit: 32 products a cycle, summed exactly over the passes of a block. A block's last pass answers 10 cycles
// after its elements went in, as sign and magnitude.
module mx_dot
  import mx_types::*;
#(
    parameter int LANES = 32
) (
    input  logic        clk,
    input  step_t       step,
    input  element_t    w[LANES],
    input  element_t    x[LANES],
    output logic [69:0] magnitude,
    output logic        negative,
    output logic        is_nan,
    output logic        is_infinite
);
  localparam int SUM = 37 + $clog2(LANES);

  // Multiply: 3 cycles.
  logic [LANES-1:0][35:0] product;
  logic [LANES-1:0]       minus, minus3;
  for (genvar i = 0; i < LANES; i++) begin : g_lane
    mx_multiply multiply (.clk, .a(w[i].magnitude), .b(x[i].magnitude), .product(product[i]));
    assign minus[i] = w[i].negative ^ x[i].negative;
  end
  mx_delay #(.WIDTH(LANES), .DEPTH(3)) delay_minus (.clk, .in(minus), .out(minus3));

  // Add: 5 cycles.
  logic signed [SUM-1:0] sum8;
  logic                  sum_negative8;
  mx_sum #(.LANES(LANES)) tree (.clk, .product, .negative(minus3), .sum(sum8), .sum_negative(sum_negative8));

  // Join the passes, high digits first.
  pass_t pass8;
  logic  valid8;
  mx_delay #(.WIDTH(3), .DEPTH(8)) delay_pass (.clk, .in({step.valid, step.pass}), .out({valid8, pass8}));
  logic signed [70:0] total, carried;
  always_comb begin
    unique case (pass8)
      PASS_FIRST: carried = '0;
      PASS_SHIFT: carried = total <<< 16;
      default:    carried = total;
    endcase
  end
  logic [70:0] joined;
  mx_add_subtract #(.WIDTH(71)) join_ (.a(carried), .b(71'(sum8)), .subtract(sum_negative8), .result(joined));
  always_ff @(posedge clk) if (valid8) total <= joined;

  // Sign and magnitude.
  logic nan4, infinite4, negative4, nan9, infinite9, negative9;
  mx_specials #(.LANES(LANES)) specials (
      .clk, .w, .x, .is_nan(nan4), .is_infinite(infinite4), .negative(negative4)
  );
  mx_delay #(.WIDTH(3), .DEPTH(5)) delay_specials (
      .clk, .in({nan4, infinite4, negative4}), .out({nan9, infinite9, negative9})
  );
  logic [69:0] absolute;
  mx_add_subtract #(.WIDTH(70)) negate (.a('0), .b(total[69:0]), .subtract(total[70]), .result(absolute));
  always_ff @(posedge clk) begin
    magnitude   <= absolute;
    negative    <= infinite9 ? negative9 : total[70];
    is_nan      <= nan9;
    is_infinite <= infinite9;
  end
endmodule
