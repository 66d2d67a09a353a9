// float32 a + b: to nearest, ties to even, with subnormals, infinities and one NaN; eight cycles. The sum of two zeros
// is +0, whatever their signs.
module mx_add
  import mx_constants::NAN_BITS;
(
    input  logic        clk,
    input  logic [31:0] a,
    input  logic [31:0] b,
    output logic [31:0] sum
);
  typedef struct packed {
    logic       negative;
    logic       is_nan;
    logic       is_infinite;
    logic [7:0] exponent;
  } side_t;

  // 1: which has the larger magnitude, and by how much the exponents differ. A subnormal's exponent counts as 1.
  logic [31:0] a1, b1;
  logic        swap1;
  logic [8:0]  distance1;
  logic [7:0]  ea, eb;
  assign ea = {a[30:24], a[23] | (a[30:23] == 0)};
  assign eb = {b[30:24], b[23] | (b[30:23] == 0)};
  always_ff @(posedge clk) begin
    a1 <= a;
    b1 <= b;
    swap1 <= a[30:0] < b[30:0];
    distance1 <= {1'b0, ea} - {1'b0, eb};
  end

  // 2: the larger first.
  logic [23:0] large2, small2;
  logic [7:0]  distance2;
  logic        subtract2;
  side_t       s2;
  logic        a_max, b_max, a_tail, b_tail;
  logic [31:0] large1, small1;
  assign large1 = swap1 ? b1 : a1;
  assign small1 = swap1 ? a1 : b1;
  assign a_max = &a1[30:23];
  assign b_max = &b1[30:23];
  assign a_tail = |a1[22:0];
  assign b_tail = |b1[22:0];
  always_ff @(posedge clk) begin
    large2 <= {|large1[30:23], large1[22:0]};
    small2 <= {|small1[30:23], small1[22:0]};
    // When the exponents are equal the distance is zero, whichever is larger.
    distance2 <= swap1 ? -distance1[7:0] : distance1[7:0];
    subtract2 <= a1[31] ^ b1[31];
    s2.negative <= large1[31];
    s2.exponent <= {large1[30:24], large1[23] | (large1[30:23] == 0)};
    s2.is_nan <= (a_max & a_tail) | (b_max & b_tail) | (a_max & b_max & (a1[31] ^ b1[31]));
    s2.is_infinite <= a_max | b_max;
  end

  // 3, 4: align the smaller; guard, round and sticky bits stay below it.
  logic [26:0] small3, small4;
  logic [23:0] large3, large4;
  logic        sticky3;
  logic [2:0]  distance3;
  logic        subtract3, subtract4;
  side_t       s3, s4;
  logic [33:0] fine;
  assign fine = {small3, 7'd0} >> distance3;
  always_ff @(posedge clk) begin
    s3 <= s2;
    large3 <= large2;
    subtract3 <= subtract2;
    distance3 <= distance2[2:0];
    unique case (distance2[4:3])
      2'd0: begin small3 <= {small2, 3'd0}; sticky3 <= 1'b0; end
      2'd1: begin small3 <= {8'd0, small2[23:5]}; sticky3 <= |small2[4:0]; end
      2'd2: begin small3 <= {16'd0, small2[23:13]}; sticky3 <= |small2[12:0]; end
      2'd3: begin small3 <= {24'd0, small2[23:21]}; sticky3 <= |small2[20:0]; end
    endcase
    if (|distance2[7:5]) begin
      small3  <= '0;
      sticky3 <= |small2;
    end
    s4 <= s3;
    large4 <= large3;
    subtract4 <= subtract3;
    small4 <= {fine[33:8], fine[7] | (|fine[6:0]) | sticky3};
  end

  // 5: add or subtract. Bit 27 is the carry. `limit` marks how far the sum may be shifted up before it is subnormal:
  // place 27 - exponent, with the carry's place standing for exponent + 1.
  logic [27:0] total4, total5, limit5;
  side_t       s5;
  mx_add_subtract #(.WIDTH(28)) add (
      .a({1'b0, large4, 3'd0}), .b({1'b0, small4}), .subtract(subtract4), .result(total4)
  );
  always_ff @(posedge clk) begin
    s5 <= s4;
    total5 <= total4;
    limit5 <= (s4.exponent >= 8'd28) ? 28'd0 : (28'd1 << (5'd27 - s4.exponent[4:0]));
  end

  // 6, 7: shift up until the leading one, or the limit, stands at bit 27. First by eights, then by ones.
  logic [27:0] total6, limit6, total7;
  logic [8:0]  exponent6, exponent7;
  side_t       s6, s7;
  logic [27:0] mark5;
  logic [7:0]  mark6;
  logic [2:0]  up6;
  assign mark5 = total5 | limit5;
  assign mark6 = total6[27:20] | limit6[27:20];
  always_comb begin
    unique casez (mark6)
      8'b1???????: up6 = 3'd0;
      8'b01??????: up6 = 3'd1;
      8'b001?????: up6 = 3'd2;
      8'b0001????: up6 = 3'd3;
      8'b00001???: up6 = 3'd4;
      8'b000001??: up6 = 3'd5;
      8'b0000001?: up6 = 3'd6;
      default:     up6 = 3'd7;
    endcase
  end
  always_ff @(posedge clk) begin
    s6 <= s5;
    if (|mark5[27:20]) begin
      total6 <= total5; limit6 <= limit5; exponent6 <= {1'b0, s5.exponent} + 9'd1;
    end else if (|mark5[19:12]) begin
      total6 <= total5 << 8; limit6 <= limit5 << 8; exponent6 <= {1'b0, s5.exponent} - 9'd7;
    end else if (|mark5[11:4]) begin
      total6 <= total5 << 16; limit6 <= limit5 << 16; exponent6 <= {1'b0, s5.exponent} - 9'd15;
    end else begin
      total6 <= total5 << 24; limit6 <= limit5 << 24; exponent6 <= {1'b0, s5.exponent} - 9'd23;
    end
    s7 <= s6;
    total7 <= total6 << up6;
    exponent7 <= exponent6 - 9'(up6);
  end

  // 8: round. Without a leading one the number is subnormal (or zero) and its exponent field is 0.
  logic [31:0] rounded;
  logic        up;
  assign up = total7[3] & (total7[4] | (|total7[2:0]));
  assign rounded = {total7[27] ? exponent7 : 9'd0, total7[26:4]} + 32'(up);
  always_ff @(posedge clk) begin
    if (s7.is_nan) sum <= NAN_BITS;
    else if (s7.is_infinite || rounded[31] || (&rounded[30:23])) sum <= {s7.negative, 8'hff, 23'd0};
    else sum <= {s7.negative & (|total7), rounded[30:0]};
  end
endmodule
