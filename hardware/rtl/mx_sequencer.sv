// Walks through groups, blocks, turns and passes, and says what the memories give and the tile does in each cycle.
//
// The activations of a block go ahead of it by eight turns. A group starts only when at most one group's results wait to
// leave: there is room for two.
module mx_sequencer
  import mx_types::*;
#(
    parameter int ELEMENT_BITS = 10,
    parameter int SCALE_BITS = 11,
    parameter int BLOCK_BITS = 8
) (
    input  logic clk,
    input  logic reset,
    input  logic start,
    input  logic [ELEMENT_BITS-1:0] first_word,
    input  logic [SCALE_BITS-1:0] first_scale,
    input  logic [BLOCK_BITS:0] blocks,
    input  logic [15:0] groups,
    input  logic [2:0] granules,  // 2, 3 or 4 a step
    input  logic w_two_digits,
    input  logic x_two_digits,
    input  logic group_left,      // a group's results have left

    output logic read,
    output logic [ELEMENT_BITS-1:0] read_at,
    output logic [SCALE_BITS-1:0] w_scale_at,
    output logic [2:0] granule_start,
    output logic part_valid,
    output logic [BLOCK_BITS+2:0] part_at,
    output logic [BLOCK_BITS-1:0] x_scale_at,
    output step_t step            // with the addresses; what they fetch comes five cycles later
);
  typedef enum logic [1:0] {IDLE, AHEAD, STEPS} state_t;
  state_t state;

  logic [15:0]           groups_left;
  logic [BLOCK_BITS:0]   block;
  logic [2:0]            turn;
  logic [1:0]            pass, last_pass;
  logic [1:0]            waiting;  // groups begun whose results have not left
  logic [2:0]            available;
  logic [ELEMENT_BITS-1:0] word;
  logic [SCALE_BITS-1:0] scale;
  logic [BLOCK_BITS:0]   part_block;
  logic [2:0]            part;

  logic group_begins, stall, issue, first, last_block, needs_word;
  assign group_begins = block == 0 && turn == 0 && pass == 0;
  assign stall        = group_begins && waiting == 2'd2;
  assign issue        = state == STEPS && !stall;
  assign first        = pass == 0;
  assign last_block   = block + 1'b1 == blocks;
  assign needs_word   = available < granules;

  always_ff @(posedge clk) begin
    // What the memories are asked for.
    read          <= issue && first && needs_word;
    read_at       <= word;
    w_scale_at    <= scale;
    x_scale_at    <= block[BLOCK_BITS-1:0];
    part_valid    <= state == AHEAD || (issue && first);
    part_at       <= {part_block[BLOCK_BITS-1:0], part};
    // Between 4 and 7 in the newest word, below that in the one before; a slot's later passes keep it.
    if (first) granule_start <= needs_word ? 3'd4 - available : 3'd0 - available;

    step.valid       <= issue;
    step.new_block   <= issue && turn == 0 && first;
    step.w_high      <= w_two_digits && (x_two_digits ? !pass[1] : !pass[0]);
    step.x_high      <= x_two_digits && !pass[0];
    step.pass        <= first ? PASS_FIRST : (pass == 2'd2) ? PASS_ADD : PASS_SHIFT;
    step.last_pass   <= pass == last_pass;
    step.first_block <= block == 0;
    step.last_block  <= last_block;
    step.turn        <= turn;

    waiting <= waiting + 2'(issue && group_begins) - 2'(group_left);

    if (state == AHEAD || (issue && first)) begin
      part <= part + 3'd1;
      if (&part) part_block <= (part_block + 1'b1 == blocks) ? '0 : part_block + 1'b1;
    end
    unique case (state)
      IDLE: if (start) begin
        state       <= AHEAD;
        groups_left <= groups;
        block       <= '0;
        turn        <= '0;
        pass        <= '0;
        last_pass   <= {w_two_digits && x_two_digits, w_two_digits || x_two_digits};
        available   <= '0;
        word        <= first_word;
        scale       <= first_scale;
        part_block  <= '0;
        part        <= '0;
        waiting     <= '0;
      end
      AHEAD: if (&part) state <= STEPS;
      STEPS: if (!stall) begin
        if (first) begin
          available <= needs_word ? available + 3'd4 - granules : available - granules;
          if (needs_word) word <= word + 1'b1;
        end
        pass <= pass == last_pass ? 2'd0 : pass + 2'd1;
        if (pass == last_pass) begin
          scale <= scale + 1'b1;
          turn  <= turn + 3'd1;
          if (&turn) begin
            block <= last_block ? '0 : block + 1'b1;
            if (last_block) begin
              groups_left <= groups_left - 16'd1;
              if (groups_left == 16'd1) state <= IDLE;
            end
          end
        end
      end
      default: state <= IDLE;
    endcase
    if (reset) state <= IDLE;
  end
endmodule
