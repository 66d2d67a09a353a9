// a + b, or a - b: a leaf, because synthesis tools tend to build both and choose.
module mx_add_subtract #(
    parameter int WIDTH = 8
) (
    input  logic [WIDTH-1:0] a,
    input  logic [WIDTH-1:0] b,
    input  logic             subtract,
    output logic [WIDTH-1:0] result
);
  assign result = subtract ? a - b : a + b;
endmodule
