// Written by `python -m mx_fpga.generate` from the Python tables; do not edit.
package mx_constants;
  localparam int FORMATS = 6;
  // By number: MXFP8 (E4M3), MXFP8_E5M2 (E5M2), MXFP6 (E2M3), MXFP6_E3M2 (E3M2), MXFP4 (E2M1), MXINT8 (INT8). The last entries are no formats.
  localparam int FORMAT_BITS[8] = '{8, 8, 6, 6, 4, 8, 8, 8};
  localparam int FORMAT_EXPONENT_BITS[8] = '{4, 5, 2, 3, 2, 0, 0, 0};
  localparam int FORMAT_MANTISSA_BITS[8] = '{3, 2, 3, 2, 1, 6, 6, 6};
  // log2 of the value of a magnitude of one.
  localparam logic signed [7:0] FORMAT_UNIT[8] = '{-9, -16, -3, -4, -1, -6, -6, -6};
  localparam bit FORMAT_HAS_INFINITY[8] = '{0, 1, 0, 0, 0, 0, 0, 0};
  localparam bit FORMAT_HAS_NAN[8] = '{1, 1, 0, 0, 0, 0, 0, 0};
  // Two digits need two passes.
  localparam bit FORMAT_TWO_DIGITS[8] = '{0, 1, 0, 0, 0, 0, 0, 0};
  // The one NaN that leaves the board.
  localparam logic [31:0] NAN_BITS = 32'h7fc00000;

  localparam logic [7:0] MESSAGE_HELLO = 8'h01;
  localparam logic [7:0] MESSAGE_PING = 8'h02;
  localparam logic [7:0] MESSAGE_RESET = 8'h03;
  localparam logic [7:0] MESSAGE_LOAD_BEGIN = 8'h04;
  localparam logic [7:0] MESSAGE_LOAD_CHUNK = 8'h05;
  localparam logic [7:0] MESSAGE_LOAD_COMMIT = 8'h06;
  localparam logic [7:0] MESSAGE_FREE = 8'h07;
  localparam logic [7:0] MESSAGE_ACTIVATIONS = 8'h08;
  localparam logic [7:0] MESSAGE_RUN = 8'h09;
  localparam logic [7:0] MESSAGE_COUNTERS = 8'h0a;
  localparam logic [7:0] MESSAGE_READ_ENERGY = 8'h0b;
  localparam logic [7:0] MESSAGE_BAD_FRAME = 8'h7f;
  localparam logic [7:0] STATUS_OK = 8'd0;
  localparam logic [7:0] STATUS_UNKNOWN_MESSAGE = 8'd1;
  localparam logic [7:0] STATUS_BAD_LENGTH = 8'd2;
  localparam logic [7:0] STATUS_BAD_HANDLE = 8'd3;
  localparam logic [7:0] STATUS_OUT_OF_MEMORY = 8'd4;
  localparam logic [7:0] STATUS_BAD_OFFSET = 8'd5;
  localparam logic [7:0] STATUS_INCOMPLETE = 8'd6;
  localparam logic [7:0] STATUS_BAD_SHAPE = 8'd7;
  localparam logic [7:0] STATUS_NO_ACTIVATIONS = 8'd8;
  localparam logic [7:0] STATUS_NOT_LOADING = 8'd9;
  localparam logic [7:0] STATUS_BAD_FRAME = 8'd10;
  localparam logic [7:0] REPLY = 8'h80;
  localparam logic [7:0] VERSION_MAJOR = 8'd1;
  localparam logic [7:0] VERSION_MINOR = 8'd0;
  localparam logic [31:0] MAGIC = 32'h4246584d;  // little-endian
  localparam int MAX_CONTENT = 2044;
  localparam int MAX_PAYLOAD = 2040;
  localparam int HEADER_BYTES = 4;
endpackage
