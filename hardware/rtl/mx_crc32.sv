// CRC-32 as zlib computes it (IEEE 802.3, reflected, polynomial 0xedb88320), a byte at a time. Start with all ones; the
// CRC is the complement. A frame followed by its own CRC leaves RESIDUE.
package mx_crc32;
  localparam logic [31:0] START = 32'hffffffff;
  localparam logic [31:0] RESIDUE = 32'hdebb20e3;

  function automatic logic [31:0] crc_byte(input logic [31:0] crc, input logic [7:0] data);
    logic [31:0] c;
    c = crc ^ {24'd0, data};
    for (int i = 0; i < 8; i++) c = c[0] ? (c >> 1) ^ 32'hedb88320 : c >> 1;
    return c;
  endfunction
endpackage
