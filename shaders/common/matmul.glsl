// common/matmul.glsl: what matvec and matmat share: bindings, tiles, epilogue.

layout(std430, binding = 1) readonly restrict buffer X { vec4 x4[]; };
layout(std430, binding = 1) readonly restrict buffer XSums { vec2 x2[]; };
layout(std430, binding = 2) restrict buffer Y { float y1[]; };
layout(std430, binding = 3) readonly restrict buffer Step { uint step_words[]; };

// Gate and up are two products of one output: parts of an accumulator.
#define KEPT_IS_GLU (EPI == KEPT_EPI_GLU_SILU || EPI == KEPT_EPI_GLU_GELU)
#define KEPT_PARTS (KEPT_IS_GLU ? 2u : 1u)

uint n_tiles()
{
    return (p.n_rows + 15u) >> 4;
}

// Column 0 of x in vec4 (x_stride is a multiple of 4).
uint x_first4()
{
    return step_words[p.x_first_at] * (p.x_stride >> 2);
}

void store(uint c, uint r, float a)
{
    uint at = c * p.y_stride + p.y_offset + r;
    y1[at] = EPI == KEPT_EPI_ADD ? y1[at] + a : a;
}

float gated(float gate, float up)
{
    return (EPI == KEPT_EPI_GLU_SILU ? kept_silu(gate) : kept_gelu(gate)) * up;
}

void store_sum(uint c, uint tile, float sum)
{
    y1[c * p.y_stride + p.sums_offset + (p.y_offset >> 4) + tile] = sum;
}
