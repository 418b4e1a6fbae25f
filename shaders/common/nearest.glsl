// common/nearest.glsl: which slots are most like some keys: the search of slot_nearest and
// assoc_match.
//
// EB keys at a time are in shared memory; a lane owns slots lane, lane + WG, … of a split and
// remembers the best of them for each. Then the lanes' best become 8 a key, and those one; the
// lower slot of equals.
//
// The includer declares D, EB, SPL (slots of a lane at a time) and, for slots of a KV head,
//   void near_load(uint slot, uint g, out vec4 lo, out vec4 hi)   elements 8g … 8g + 7
//   bool near_counts(uint slot)                                  whether it may be the best

const uint LEFT = WG < 8u ? WG : 8u; // partial results of a key

shared vec4 key4[EB * D / 4u]; // [element / 4][key]
shared vec2 best_of[EB * WG];  // [key][lane]: likeness, bits of the slot

bool better(vec2 a, vec2 b)
{
    return a.x > b.x || (a.x == b.x && floatBitsToUint(a.y) < floatBitsToUint(b.y));
}

// The lane's best of slots first … end - 1 by k.s / |s|, for each key k.
void find_best(uint first, uint end)
{
    uint lane = gl_LocalInvocationID.x;
    vec2 best[EB];
    [[unroll]] for (uint e = 0u; e < EB; e++) {
        best[e] = vec2(KEPT_MINUS_INFINITY, 0.0);
    }
    for (uint at = first; at < end; at += WG * SPL) {
        float dots[EB * SPL], square[SPL];
        [[unroll]] for (uint n = 0u; n < SPL; n++) {
            square[n] = 0.0;
            [[unroll]] for (uint e = 0u; e < EB; e++) {
                dots[e * SPL + n] = 0.0;
            }
        }
        for (uint g = 0u; g < D / 8u; g++) {
            vec4 lo[SPL], hi[SPL];
            [[unroll]] for (uint n = 0u; n < SPL; n++) {
                near_load(min(at + n * WG + lane, end - 1u), g, lo[n], hi[n]);
                square[n] += dot(lo[n], lo[n]) + dot(hi[n], hi[n]);
            }
            [[unroll]] for (uint e = 0u; e < EB; e++) {
                vec4 e_lo = key4[2u * g * EB + e], e_hi = key4[(2u * g + 1u) * EB + e];
                [[unroll]] for (uint n = 0u; n < SPL; n++) {
                    vec4 v = fma(hi[n], e_hi, lo[n] * e_lo);
                    dots[e * SPL + n] += (v.x + v.y) + (v.z + v.w);
                }
            }
        }
        [[unroll]] for (uint n = 0u; n < SPL; n++) {
            uint s = at + n * WG + lane;
            bool counts = s < end && near_counts(min(s, end - 1u));
            float size = sqrt(square[n]);
            [[unroll]] for (uint e = 0u; e < EB; e++) {
                float v = dots[e * SPL + n] / size;
                v = square[n] == 0.0 || !is_finite(v) ? -3e38 : v;
                best[e] = counts && v > best[e].x ? vec2(v, uintBitsToFloat(s)) : best[e];
            }
        }
    }
    [[unroll]] for (uint e = 0u; e < EB; e++) {
        best_of[e * WG + lane] = best[e];
    }
    barrier();
}

vec2 best_from(uint at, uint end, uint by)
{
    vec2 best = best_of[at];
    for (uint i = at + by; i < end; i += by) {
        if (better(best_of[i], best)) {
            best = best_of[i];
        }
    }
    return best;
}

// After find_best: best_of is 8 a key. All lanes; ends with a barrier.
void gather_best()
{
    for (uint i = gl_LocalInvocationID.x; i < EB * LEFT; i += WG) {
        uint at = i / LEFT * WG;
        best_of[at + i % LEFT] = best_from(at + i % LEFT, at + WG, LEFT);
    }
    barrier();
}

// After gather_best: the best of all lanes for key e.
vec2 best_for(uint e)
{
    return best_from(e * WG, e * WG + LEFT, 1u);
}
