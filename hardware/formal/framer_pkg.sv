// What `framer` remembers of a place of the transmitter's buffer.
package framer_pkg;
  import mx_crc32::*;

  typedef struct packed {
    logic [7:0]  distance;    // from the code of its run; 0: it is a code
    logic [7:0]  run_before;  // of a code: the length of the run that it ended
    logic [11:0] index;       // bytes of the message before it
    logic [31:0] crc;         // of these
  } memo_t;

  // A code stands for the zero that ended the run before it; the first, and one after a full run, for nothing.
  function automatic logic stands_for_a_byte(input memo_t memo, input logic [11:0] place);
    return place != 0 && (memo.distance != 0 || memo.run_before != 8'd255);
  endfunction

  function automatic logic [31:0] crc_after(input memo_t memo, input logic [11:0] place, input logic [7:0] stored);
    return stands_for_a_byte(memo, place) ? crc_byte(memo.crc, memo.distance != 0 ? stored : 8'd0) : memo.crc;
  endfunction
endpackage
