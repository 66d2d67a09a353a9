// What holds of one place of the transmitter's buffer from the moment that it is given out. It speaks of the place before
// it and of the code of its run alone, so that what is written later disturbs nothing.
module framer_place
  import mx_crc32::*;
#(
    parameter bit ASSERTED = 1'b0
) (
    input  logic        clk,
    input  logic [11:0] place,
    output logic        holds
);
  logic [11:0] code_at, run_at, last;
  logic [7:0]  here, of_code, of_run, of_last;
  framer_pkg::memo_t memo, memo_last;
  assign memo      = framer.memo[place];
  assign last      = place - 12'd1;
  assign memo_last = framer.memo[last];
  assign code_at   = place - 12'(memo.distance);
  assign run_at    = place - 12'(memo.run_before);
  assign here      = framer.tx.buffer[place];
  assign of_last   = framer.tx.buffer[last];
  assign of_code   = framer.tx.buffer[code_at];
  assign of_run    = framer.tx.buffer[run_at];

  // The code of the run that is still growing is not in the buffer yet.
  logic given, is_open, in_open_run;
  assign given       = framer.filled && place < framer.tx.place;
  assign is_open     = !framer.closed && place == framer.tx.code_place;
  assign in_open_run = !framer.closed && code_at == framer.tx.code_place;

  logic nonzero, in_run, follows, counted, summed, stands, watched;
  always_comb begin
    nonzero = is_open || here != 0;
    // The code of its run counts it.
    in_run = memo.distance < 8'd255 && 12'(memo.distance) <= place && code_at <= framer.tx.code_place
          && (in_open_run || of_code > memo.distance)
          && (code_at != framer.tx.code_place || framer.tx.code > memo.distance);
    // Data follow the last place's run; a code comes where the code of the run before it says.
    if (place == 0) follows = memo.distance == 0;
    else if (memo.distance != 0) follows = memo_last.distance == memo.distance - 8'd1;
    else follows = place <= framer.tx.code_place && memo.run_before != 0 && 12'(memo.run_before) <= place
                && memo.run_before == memo_last.distance + 8'd1 && of_run == memo.run_before;
    // What was taken before it is what was taken before the last place, and the byte that this one stands for.
    counted = place == 0 ? memo.index == 0 : memo.index == memo_last.index + 12'(framer_pkg::stands_for_a_byte(memo_last, last));
    summed  = memo.crc == (place == 0 ? START : framer_pkg::crc_after(memo_last, last, of_last));
    stands  = framer_pkg::stands_for_a_byte(memo, place);
    watched = memo.index <= framer.count && (!stands || (memo.index < framer.count
           && (memo.index != 12'(framer.index) || (memo.distance != 0 ? here : 8'd0) == framer.value)));
  end
  assign holds = !given || (nonzero && in_run && follows && counted && summed && watched);

  if (ASSERTED) begin : g_asserted
    always_ff @(posedge clk) if (framer.begun && given) begin
      i_nonzero : assert (nonzero);
      i_in_run  : assert (in_run);
      i_follows : assert (follows);
      i_counted : assert (counted);
      i_summed  : assert (summed);
      i_watched : assert (watched);
    end
  end
endmodule
