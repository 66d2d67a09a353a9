// The ECP5 cells that the leaves name, with the ports and parameters that they use. Their meaning
// comes from the tools' own libraries.
(* blackbox *)
module CCU2C #(
    parameter logic [15:0] INIT0 = 16'h0000,
    parameter logic [15:0] INIT1 = 16'h0000,
    parameter INJECT1_0 = "YES",
    parameter INJECT1_1 = "YES"
) (
    input CIN, input A0, input B0, input C0, input D0, input A1, input B1, input C1, input D1,
    output S0, output S1, output COUT
);
endmodule

(* blackbox *)
module MULT18X18D #(
    parameter REG_INPUTA_CLK = "NONE", parameter REG_INPUTA_CE = "CE0", parameter REG_INPUTA_RST = "RST0",
    parameter REG_INPUTB_CLK = "NONE", parameter REG_INPUTB_CE = "CE0", parameter REG_INPUTB_RST = "RST0",
    parameter REG_PIPELINE_CLK = "NONE", parameter REG_PIPELINE_CE = "CE0", parameter REG_PIPELINE_RST = "RST0",
    parameter REG_OUTPUT_CLK = "NONE", parameter REG_OUTPUT_CE = "CE0", parameter REG_OUTPUT_RST = "RST0",
    parameter GSR = "ENABLED", parameter RESETMODE = "SYNC"
) (
    input CLK0, input CE0, input RST0, input SIGNEDA, input SIGNEDB, input SOURCEA, input SOURCEB,
    input A0, input A1, input A2, input A3, input A4, input A5, input A6, input A7, input A8,
    input A9, input A10, input A11, input A12, input A13, input A14, input A15, input A16, input A17,
    input B0, input B1, input B2, input B3, input B4, input B5, input B6, input B7, input B8,
    input B9, input B10, input B11, input B12, input B13, input B14, input B15, input B16, input B17,
    output P0, output P1, output P2, output P3, output P4, output P5, output P6, output P7, output P8,
    output P9, output P10, output P11, output P12, output P13, output P14, output P15, output P16, output P17,
    output P18, output P19, output P20, output P21, output P22, output P23, output P24, output P25, output P26,
    output P27, output P28, output P29, output P30, output P31, output P32, output P33, output P34, output P35
);
endmodule

(* blackbox *)
module EHXPLLL #(
    parameter int CLKI_DIV = 1, parameter int CLKFB_DIV = 1, parameter int CLKOP_DIV = 8,
    parameter int CLKOP_CPHASE = 0, parameter int CLKOP_FPHASE = 0,
    parameter CLKOP_ENABLE = "ENABLED", parameter FEEDBK_PATH = "CLKOP", parameter OUTDIVIDER_MUXA = "DIVA"
) (
    input CLKI, input CLKFB, input RST, input STDBY, input PHASESEL0, input PHASESEL1, input PHASEDIR,
    input PHASESTEP, input PHASELOADREG, input PLLWAKESYNC, input ENCLKOP,
    output CLKOP, output LOCK
);
endmodule
(* blackbox *)
module TRELLIS_FF #(
    parameter GSR = "ENABLED", parameter CEMUX = "1", parameter CLKMUX = "CLK", parameter LSRMUX = "LSR", parameter REGSET = "RESET"
) (
    input CLK, input LSR, input DI,
    output Q
);
endmodule
