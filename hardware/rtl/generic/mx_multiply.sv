// 18 x 18 bits unsigned, three cycles: a vendor leaf. Written plainly here; mx_multiply_ecp5.sv takes its place there.
module mx_multiply (
    input  logic        clk,
    input  logic [17:0] a,
    input  logic [17:0] b,
    output logic [35:0] product
);
  logic [17:0] a_q, b_q;
  logic [35:0] pipeline_q;
  always_ff @(posedge clk) begin
    a_q        <= a;
    b_q        <= b;
    pipeline_q <= a_q * b_q;
    product    <= pipeline_q;
  end
endmodule
