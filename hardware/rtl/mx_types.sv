// What travels between the stages of the datapath.
package mx_types;
  import mx_constants::*;

  // How an element is cut into sign, exponent and mantissa. Constant while a product runs, so it is decoded once.
  typedef struct packed {
    logic       integer_;       // two's complement
    logic       mantissa3;      // three mantissa bits; two; otherwise one
    logic       mantissa2;
    logic [2:0] exponent_mask;  // ones where the exponent field has bits 2, 3, 4
    logic [1:0] width;          // 0: 4 bits, 1: 6 bits, 2: 8 bits
    logic       infinities;     // all-ones exponents are infinite or NaN (E5M2)
    logic       nan;            // the all-ones code is NaN (E4M3)
  } fields_t;

  typedef enum logic [1:0] {
    NUMBER   = 2'd0,
    ZERO     = 2'd1,
    INFINITE = 2'd2,
    NOT_A_NUMBER = 2'd3
  } kind_t;

  // An element: (-1)**negative * magnitude * 2**unit, or * 2**(16 + unit) where `high` is set.
  typedef struct packed {
    logic        negative;
    logic        high;
    kind_t       kind;
    logic [17:0] magnitude;
  } element_t;

  // What a pass does with the block sum so far.
  typedef enum logic [1:0] {
    PASS_FIRST = 2'd0,  // starts anew
    PASS_SHIFT = 2'd1,  // counts 16 bits more than what follows
    PASS_ADD   = 2'd2   // counts the same
  } pass_t;

  // One cycle of a tile: which digits are multiplied, and what becomes of the sum.
  typedef struct packed {
    logic       valid;
    logic       new_block;    // the first pass of a block's first turn: the next activations take their place
    logic       w_high;       // which digit of the weights
    logic       x_high;       // which digit of the activations
    pass_t      pass;
    logic       last_pass;
    logic       first_block;
    logic       last_block;
    logic [2:0] turn;
  } step_t;

  // A block's sum on its way to float32.
  typedef struct packed {
    logic       valid;
    logic       first_block;
    logic       last_block;
    logic [2:0] turn;
  } turn_t;

  function automatic fields_t fields_of(input logic [2:0] number);
    fields_t f;
    f.integer_      = FORMAT_EXPONENT_BITS[number] == 0;
    f.mantissa3     = FORMAT_MANTISSA_BITS[number] == 3;
    f.mantissa2     = FORMAT_MANTISSA_BITS[number] == 2;
    f.exponent_mask = 3'(((32'd1 << FORMAT_EXPONENT_BITS[number]) - 1) >> 2);
    f.width         = FORMAT_BITS[number] == 4 ? 2'd0 : FORMAT_BITS[number] == 6 ? 2'd1 : 2'd2;
    f.infinities    = FORMAT_HAS_INFINITY[number];
    f.nan           = FORMAT_HAS_NAN[number] && !FORMAT_HAS_INFINITY[number];
    return f;
  endfunction
endpackage
