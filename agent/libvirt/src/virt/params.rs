//! Reading libvirt's typed parameters.

use std::{ffi::c_int, mem};

use virt_sys as sys;

use crate::{
    job::Value,
    text::{MAX_MESSAGE, MAX_NAME, clean, from_ptr},
};

/// The names and values of `n_params` parameters; those of a type unknown here are left out.
///
/// # Safety
/// `params` points to that many parameters as libvirt filled them in (or is null, or `n_params` is not positive).
pub(super) unsafe fn read_params(params: sys::virTypedParameterPtr, n_params: c_int) -> Vec<(String, Value)> {
    let Ok(n_params) = usize::try_from(n_params) else { return Vec::new() };
    if params.is_null() {
        return Vec::new();
    }
    // SAFETY: as the caller promises.
    let params = unsafe { std::slice::from_raw_parts(params, n_params) };
    params
        .iter()
        .filter_map(|param| {
            let name = param.field.map(c_int_to_byte);
            // SAFETY: libvirt says by the type which member of the union it wrote.
            let value = unsafe { read_value(param) }?;
            Some((clean(&name, MAX_NAME), value))
        })
        .collect()
}

/// # Safety
/// The member of the union that belongs to the type was written.
unsafe fn read_value(param: &sys::virTypedParameter) -> Option<Value> {
    let value = &param.value;
    let kind = u32::try_from(param.type_).ok()?;
    // SAFETY: as the caller promises; a string is null or a C string owned by the parameter.
    unsafe {
        match kind {
            sys::VIR_TYPED_PARAM_INT => Some(Value::Int(value.i.into())),
            sys::VIR_TYPED_PARAM_UINT => Some(Value::Uint(value.ui.into())),
            sys::VIR_TYPED_PARAM_LLONG => Some(Value::Int(value.l)),
            sys::VIR_TYPED_PARAM_ULLONG => Some(Value::Uint(value.ul)),
            sys::VIR_TYPED_PARAM_DOUBLE => Some(Value::Double(value.d)),
            sys::VIR_TYPED_PARAM_BOOLEAN => Some(Value::Bool(value.b != 0)),
            sys::VIR_TYPED_PARAM_STRING => from_ptr(value.s, MAX_MESSAGE).map(|text| Value::Text(text.into_bytes())),
            _ => None,
        }
    }
}

fn c_int_to_byte(byte: std::ffi::c_char) -> u8 {
    byte.to_ne_bytes()[0]
}

/// Parameters that libvirt made for us, freed with their strings.
pub(super) struct OwnedParams {
    pub(super) first: sys::virTypedParameterPtr,
    pub(super) count: c_int,
}

impl OwnedParams {
    pub(super) fn none() -> Self {
        Self { first: std::ptr::null_mut(), count: 0 }
    }

    pub(super) fn read(&self) -> Vec<(String, Value)> {
        // SAFETY: libvirt filled both in, or they are still null and 0.
        unsafe { read_params(self.first, self.count) }
    }
}

impl Drop for OwnedParams {
    fn drop(&mut self) {
        // SAFETY: ours to free, once; null with 0 is allowed.
        unsafe { sys::virTypedParamsFree(mem::replace(&mut self.first, std::ptr::null_mut()), self.count) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(name: &str, kind: u32, value: sys::_virTypedParameterValue) -> sys::virTypedParameter {
        let mut field = [0; 80];
        for (to, from) in field.iter_mut().zip(name.bytes()) {
            *to = std::ffi::c_char::from_ne_bytes([from]);
        }
        sys::virTypedParameter { field, type_: kind.cast_signed(), value }
    }

    #[test]
    fn each_type_is_read_from_its_member() {
        let text = c"enospc".as_ptr().cast_mut();
        let mut params = [
            param("int", sys::VIR_TYPED_PARAM_INT, sys::_virTypedParameterValue { i: -1 }),
            param("ullong", sys::VIR_TYPED_PARAM_ULLONG, sys::_virTypedParameterValue { ul: u64::MAX }),
            param("bool", sys::VIR_TYPED_PARAM_BOOLEAN, sys::_virTypedParameterValue { b: 1 }),
            param("string", sys::VIR_TYPED_PARAM_STRING, sys::_virTypedParameterValue { s: text }),
            param("newer", 99, sys::_virTypedParameterValue { i: 1 }),
        ];
        // SAFETY: five filled parameters, of which the string's text is static.
        let read = unsafe { read_params(params.as_mut_ptr(), 5) };
        assert_eq!(
            read,
            [
                ("int".into(), Value::Int(-1)),
                ("ullong".into(), Value::Uint(u64::MAX)),
                ("bool".into(), Value::Bool(true)),
                ("string".into(), Value::Text(b"enospc".to_vec())),
            ]
        );
    }

    #[test]
    fn nothing_is_read_from_nothing() {
        // SAFETY: null and a negative count are allowed.
        assert!(unsafe { read_params(std::ptr::null_mut(), 3) }.is_empty());
        assert!(OwnedParams::none().read().is_empty());
    }
}
