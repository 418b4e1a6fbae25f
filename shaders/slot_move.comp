#version 450
layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint KT = 1;
layout(constant_id = 3) const uint VT = 1;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_move_params p; };

void main()
{
}
