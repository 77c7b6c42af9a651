//! An assembler for the few BPF instructions that the steering programs use, with labels instead of counted jumps.
//!
//! `struct bpf_insn`, include/uapi/linux/bpf.h; opcodes there and in bpf_common.h.

/// `struct bpf_insn`: opcode, registers (destination in the low nibble on little endian), offset, immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Registers by their use: 0 result, 1 to 5 arguments, 6 to 9 kept over calls, 10 frame pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Register {
    R0 = 0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R10 = 10,
}

/// Sizes of loads and stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Word = 0x00,
    Half = 0x08,
    Double = 0x18,
}

/// Conditions of jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Always = 0x00,
    Equal = 0x10,
    Greater = 0x20,
}

/// A place in a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// A program in the making.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    code: Vec<Instruction>,
    /// Where each label is, once it is placed.
    labels: Vec<Option<usize>>,
    /// Jumps and the labels they lead to.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u8, to: Register, from: u8, offset: i16, immediate: i32) {
        #[cfg(target_endian = "little")]
        let registers = to as u8 | from << 4;
        #[cfg(target_endian = "big")]
        let registers = (to as u8) << 4 | from;
        self.code.push(Instruction { code, registers, offset, immediate });
    }

    /// `to = from`, 64 bits.
    pub(crate) fn copy(&mut self, to: Register, from: Register) {
        self.push(0xbf, to, from as u8, 0, 0);
    }

    /// `to = value`, sign-extended.
    pub(crate) fn set(&mut self, to: Register, value: i32) {
        self.push(0xb7, to, 0, 0, value);
    }

    /// `to += value`, 64 bits.
    pub(crate) fn add(&mut self, to: Register, value: i32) {
        self.push(0x07, to, 0, 0, value);
    }

    /// `to = *(size *)(from + offset)`, zero-extended.
    pub(crate) fn load(&mut self, size: Size, to: Register, from: Register, offset: i16) {
        self.push(0x61 | size as u8, to, from as u8, offset, 0);
    }

    /// `*(size *)(to + offset) = from`.
    pub(crate) fn store(&mut self, size: Size, to: Register, offset: i16, from: Register) {
        self.push(0x63 | size as u8, to, from as u8, offset, 0);
    }

    /// `*(size *)(to + offset) = value`.
    pub(crate) fn store_value(&mut self, size: Size, to: Register, offset: i16, value: i32) {
        self.push(0x62 | size as u8, to, 0, offset, value);
    }

    /// `to = the map behind this descriptor` (BPF_LD_IMM64 with BPF_PSEUDO_MAP_FD: two instructions long).
    pub(crate) fn load_map(&mut self, to: Register, fd: i32) {
        self.push(0x18, to, 1, 0, fd);
        self.push(0, Register::R0, 0, 0, 0);
    }

    /// Calls a helper by its number in `enum bpf_func_id`.
    pub(crate) fn call(&mut self, helper: i32) {
        self.push(0x85, Register::R0, 0, 0, helper);
    }

    /// `return r0`.
    pub(crate) fn exit(&mut self) {
        self.push(0x95, Register::R0, 0, 0, 0);
    }

    /// A label to be placed later.
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Puts a label here.
    pub(crate) fn place(&mut self, label: Label) {
        let here = self.code.len();
        self.labels.iter_mut().skip(label.0).take(1).for_each(|place| *place = Some(here));
    }

    /// `goto label`.
    pub(crate) fn jump(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.push(0x05 | Condition::Always as u8, Register::R0, 0, 0, 0);
    }

    /// `if left <condition> value goto label`, 64 bits unsigned.
    pub(crate) fn jump_value(&mut self, left: Register, condition: Condition, value: i32, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.push(0x05 | condition as u8, left, 0, 0, value);
    }

    /// `if left <condition> right goto label`, 64 bits unsigned.
    pub(crate) fn jump_register(
        &mut self,
        left: Register,
        condition: Condition,
        right: Register,
        label: Label,
    ) {
        self.jumps.push((self.code.len(), label));
        self.push(0x0d | condition as u8, left, right as u8, 0, 0);
    }

    /// The finished program. `None` if a jump leads to a label that was never placed, or too far.
    pub(crate) fn finish(mut self) -> Option<Vec<Instruction>> {
        for (from, label) in self.jumps {
            let target = self.labels.get(label.0).copied().flatten()?;
            let distance = i16::try_from(target as i64 - from as i64 - 1).ok()?;
            self.code.get_mut(from)?.offset = distance;
        }
        Some(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        let mut program = Assembler::default();
        let end = program.label();
        program.load(Size::Word, Register::R2, Register::R1, 16);
        program.jump_value(Register::R2, Condition::Greater, 7, end);
        program.load_map(Register::R1, 5);
        program.place(end);
        program.exit();
        let insn = |code, registers, offset, immediate| Instruction { code, registers, offset, immediate };
        let expected = [
            insn(0x61, 0x12, 16, 0), // r2 = *(u32 *)(r1 + 16)
            insn(0x25, 0x02, 2, 7),  // if r2 > 7 goto +2
            insn(0x18, 0x11, 0, 5),  // r1 = map fd 5
            insn(0x00, 0x00, 0, 0),
            insn(0x95, 0x00, 0, 0), // exit
        ];
        assert_eq!(program.finish().unwrap(), expected);
    }

    #[test]
    fn a_label_must_be_placed() {
        let mut program = Assembler::default();
        let nowhere = program.label();
        program.jump(nowhere);
        assert_eq!(program.finish(), None);
    }
}
