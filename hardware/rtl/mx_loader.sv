// Bytes of a weight's stream to the memories: elements eight at a time, then scales one by one, each kind to rising places
// from where its base says.
module mx_loader #(
    parameter int ELEMENT_PLACE_BITS = 13,  // places of 64 bits
    parameter int SCALE_PLACE_BITS = 12     // places of a byte
) (
    input  logic       clk,
    input  logic       restart,             // a weight begins at these places
    input  logic [ELEMENT_PLACE_BITS-1:0] element_base,
    input  logic [SCALE_PLACE_BITS-1:0] scale_base,
    input  logic       valid,
    input  logic       is_element,
    input  logic [7:0] data,
    output logic       write_elements,
    output logic [ELEMENT_PLACE_BITS-1:0] write_element_at,
    output logic [63:0] write_element,
    output logic       write_scales,
    output logic [SCALE_PLACE_BITS-1:0] write_scale_at,
    output logic [7:0] write_scale
);
  logic [2:0]  lane;  // byte of the 64 bits that are being collected
  logic [55:0] collected;
  logic [ELEMENT_PLACE_BITS-1:0] element_at;
  logic [SCALE_PLACE_BITS-1:0]   scale_at;
  always_ff @(posedge clk) begin
    write_elements   <= valid && is_element && (&lane);
    write_element    <= {data, collected};
    write_element_at <= element_at;
    write_scales     <= valid && !is_element;
    write_scale      <= data;
    write_scale_at   <= scale_at;
    if (valid && is_element) begin
      lane      <= lane + 3'd1;
      collected <= {data, collected[55:8]};
      if (&lane) element_at <= element_at + 1'b1;
    end
    if (valid && !is_element) scale_at <= scale_at + 1'b1;
    if (restart) begin
      lane       <= '0;
      element_at <= element_base;
      scale_at   <= scale_base;
    end
  end
endmodule
