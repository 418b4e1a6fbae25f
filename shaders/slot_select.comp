#version 450
layout(constant_id = 1) const uint SCORER = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_select_params p; };

void main()
{
}
